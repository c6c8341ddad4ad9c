#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/engine.h"
#include "engine/request/engine_options.h"
#include "server/commands/commands.h"
#include "server/commands/flags.h"
#include "server/commands/loaded_model.h"
#include "server/commands/model_file.h"
#include "server/grpc/grpc_server.h"
#include "server/grpc/listening_sockets.h"
#include "server/grpc/request_validation.h"
#include "server/observability/log.h"
#include "server/observability/metrics_exporter.h"
#include "server/observability/watchdog.h"
#include "server/security/auth.h"
#include "server/security/tls.h"
#include "server/session/served_model.h"

namespace winnow {
namespace {

/// A context that most requests stay within, where the model was trained for a longer one.
constexpr int kDefaultMaxContext = 8192;
constexpr int kDefaultKvTokens = 16384;
/// Shorter contexts would save microseconds a layer (docs/performance.md) with few tokens to spend.
constexpr int kDefaultSparseMinContext = 512;
/// How often the main thread looks at the engine, and at files that may have changed.
constexpr absl::Duration kPollInterval = absl::Milliseconds(50);
constexpr absl::Duration kReloadInterval = absl::Seconds(1);
/// Time that a drained server gives to responses which are still on their way out.
constexpr absl::Duration kFlushLimit = absl::Seconds(2);
/// Time for those who watch a hung server's health to be told.
constexpr absl::Duration kHealthGrace = absl::Milliseconds(100);

struct ServeFlags {
  std::string model;
  std::string model_name;
  GrpcServerOptions server = {.address = "127.0.0.1:50051"};
  TlsFiles tls;
  double min_ping_seconds = 5;
  double max_connection_age_seconds = 0;
  double slow_reader_seconds = 60;
  RequestLimits limits;
  std::string auth_tokens;
  bool auth_over_plaintext = false;
  std::string metrics_address = "127.0.0.1:9464";
  std::string device = "cpu";
  int threads = 0;
  int max_context = 0;
  int kv_tokens = 0;
  int max_step_tokens = EngineOptions().max_step_tokens;
  int max_running = EngineOptions().max_running_sequences;
  int max_waiting = EngineOptions().max_waiting_requests;
  int max_waiting_tokens = EngineOptions().max_waiting_tokens;
  int min_priority = ServedModel().min_priority;
  std::string policy;
  double sparsity = AttentionPolicy().sparsity;
  int budget_tokens = 0;
  double min_sparsity = AttentionLimits().min_sparsity;
  double max_sparsity = AttentionLimits().max_sparsity;
  std::string label_file;
  std::string budgets = "by-head";
  SelectionOptions selection = {.min_context = kDefaultSparseMinContext};
  RecallOptions recall;
  double lame_duck_seconds = 0;
  double drain_seconds = 30;
  double step_timeout_seconds = 300;
  bool inference_extension_metrics = false;
  std::string log_level = "info";
  std::string log_format = "logfmt";
};

void Declare(FlagSet& set, ServeFlags& flags) {
  set.Add("model", &flags.model, "FILE", "The GGUF file to serve. Required.");
  set.Add("model-name", &flags.model_name, "NAME",
          "What requests call the model. Default: the file's name without .gguf.");
  set.Add("address", &flags.server.address, "HOST:PORT",
          "Where to serve gRPC. Port 0 takes a free one and logs it.");
  set.Add("metrics-address", &flags.metrics_address, "HOST:PORT",
          "Where to serve Prometheus metrics, under /metrics.");
  set.Add(
      "tls-cert", &flags.tls.certificate, "FILE",
      "Serve with TLS: the server's certificate in PEM, followed by those that link it to a CA. "
      "Read again when it changes, as are the other files of TLS. Default: plaintext.");
  set.Add("tls-key", &flags.tls.key, "FILE", "The private key of --tls-cert, in PEM.");
  set.Add(
      "tls-client-ca", &flags.tls.ca, "FILE",
      "Let in only clients with a certificate from one of the CAs in this PEM file: mutual TLS.");
  set.Add("auth-tokens", &flags.auth_tokens, "FILE",
          "Let in only calls with a bearer token of this file, which holds their SHA-256; see "
          "docs/security.md. Read again when it changes. Default: everybody may call.");
  set.Add(
      "auth-over-plaintext", &flags.auth_over_plaintext, "",
      "Take tokens without TLS on addresses that others can reach: for servers behind a mesh or "
      "proxy that encrypts.");
  set.Add("reflection", &flags.server.reflection, "",
          "Let clients such as grpcurl list and describe the services. On, unless "
          "--reflection=false.");
  set.AddChoice("device", &flags.device, {"cpu", "cuda"}, "Where to compute.");
  set.Add("threads", &flags.threads, "N", "Threads that compute; 0 is one per core.", {0, 1024});
  set.Add("max-context", &flags.max_context, "TOKENS",
          absl::StrCat("Most tokens of one sequence, prompt and continuation. 0 is what the model "
                       "was trained for, at most ",
                       kDefaultMaxContext, "."),
          {0, 1 << 24});
  set.Add("kv-tokens", &flags.kv_tokens, "TOKENS",
          absl::StrCat("Size of the KV pool that all sequences share; `winnow inspect` tells the "
                       "bytes per token. 0 is ",
                       kDefaultKvTokens, " or one sequence of --max-context, if that is more."),
          {0, 1 << 30});
  set.Add("max-step-tokens", &flags.max_step_tokens, "TOKENS",
          "Most tokens that one step computes. More speeds up long prompts; less lets running "
          "answers stall less while prompts are read.",
          {1, 65536});
  set.Add("max-running", &flags.max_running, "N", "Most sequences that are computed at a time.",
          {1, 65536});
  set.Add("max-waiting", &flags.max_waiting, "N",
          "Most requests that wait for their turn; more get RESOURCE_EXHAUSTED.", {1, 1 << 20});
  set.Add("max-waiting-tokens", &flags.max_waiting_tokens, "TOKENS",
          "Most prompt tokens that wait for their turn, unless of a single request; more get "
          "RESOURCE_EXHAUSTED.",
          {1, 1 << 30});
  set.Add("max-message-bytes", &flags.server.max_message_bytes, "N",
          "Largest request message; more gets RESOURCE_EXHAUSTED.", {1024, 1 << 30});
  set.Add("max-streams-per-connection", &flags.server.max_streams_per_connection, "N",
          "Most calls that one connection carries at a time; more wait in the client.",
          {1, 1 << 20});
  set.Add("min-ping-seconds", &flags.min_ping_seconds, "SECONDS",
          "Clients that ping more often without need are disconnected.", {0, 86400});
  set.Add(
      "max-connection-age-seconds", &flags.max_connection_age_seconds, "SECONDS",
      "Clients connect anew after this, so that they meet new replicas and certificates; running "
      "calls finish. 0 is never.",
      {0, 1 << 20});
  set.Add("slow-reader-seconds", &flags.slow_reader_seconds, "SECONDS",
          "A streaming call whose client reads nothing for so long is ended with ABORTED.",
          {0.1, 86400});
  set.Add(
      "reuse-port", &flags.server.reuse_port, "",
      "Let another server listen on the same port (SO_REUSEPORT), so that it can take over while "
      "this one drains. Both need --metrics-address of their own.");
  set.Add("max-prompt-tokens", &flags.limits.prompt_tokens, "TOKENS",
          "Longest prompt. 0: what --max-context leaves room for.", {0, 1 << 24});
  set.Add("max-n", &flags.limits.n, "N", "Most continuations that a request may ask for.",
          {1, 1024});
  set.Add("max-stop-strings", &flags.limits.stop_strings, "N", "Most stop strings of a request.",
          {0, 1024});
  set.Add("max-logit-bias", &flags.limits.logit_bias_entries, "N",
          "Most logit bias entries of a request.", {0, 1 << 20});
  set.Add("min-priority", &flags.min_priority, "LEVEL",
          "Lowest priority value that requests may ask for, of -100 to 100. Lower ones come first; "
          "0 lets requests only stand back.",
          {-kMaxPriority, kMaxPriority});
  set.Add("label-file", &flags.label_file, "FILE",
          "What `winnow calibrate` found for this model: makes double-sparsity possible.");
  set.Add("policy", &flags.policy, "NAME",
          "Attention of generated tokens in requests that do not say: dense, double-sparsity or "
          "window. Default: double-sparsity with a label file, else dense.");
  set.Add("sparsity", &flags.sparsity, "N", "Generated tokens attend to one token in N.",
          {1, 1024});
  set.Add(
      "budget-tokens", &flags.budget_tokens, "TOKENS",
      "Instead of --sparsity: attend to so many tokens, whatever the context. 0: use --sparsity.",
      {0, 1 << 24});
  set.Add("min-sparsity", &flags.min_sparsity, "N",
          "Least sparsity that requests may ask for; above 1 forbids dense attention.", {1, 1024});
  set.Add("max-sparsity", &flags.max_sparsity, "N", "Greatest sparsity that requests may ask for.",
          {1, 1024});
  set.AddChoice("budgets", &flags.budgets, {"by-head", "uniform"},
                "Spread the budget over the heads as the label file says, or evenly.");
  set.Add("dense-layers", &flags.selection.dense_layers, "N", "First layers that stay dense.",
          {0, 1024});
  set.Add("sinks", &flags.selection.sinks, "TOKENS", "First tokens, always attended to.",
          {0, 65536});
  set.Add("window", &flags.selection.window, "TOKENS", "Most recent tokens, always attended to.",
          {1, 65536});
  set.Add("sparse-from", &flags.selection.min_context, "TOKENS",
          "Shorter contexts stay dense: there selecting saves little time.", {0, 1 << 24});
  set.Add("recall-interval", &flags.recall.interval_tokens, "TOKENS",
          "Measure how much of the softmax a selection holds once in so many generated tokens of a "
          "sequence; 0 is never.",
          {0, 1 << 20});
  set.Add("recall-floor", &flags.recall.floor, "SHARE",
          "Double a sequence's budget when its measured recall falls below this; 0 is never.",
          {0, 1});
  set.Add(
      "lame-duck-seconds", &flags.lame_duck_seconds, "SECONDS",
      "After SIGTERM or SIGINT: how long to serve on, with health NOT_SERVING, until clients have "
      "gone elsewhere.",
      {0, 86400});
  set.Add("drain-seconds", &flags.drain_seconds, "SECONDS",
          "Then: how long running requests may take to finish, while new ones are refused.",
          {0, 86400});
  set.Add("step-timeout", &flags.step_timeout_seconds, "SECONDS",
          "Longest that a step may take before the server counts as hung and exits, for its "
          "supervisor to start it anew; 0 is forever.",
          {0, 86400});
  set.Add(
      "inference-extension-metrics", &flags.inference_extension_metrics, "",
      "Serve queue length, running requests and KV use under vLLM's names too, which the Gateway "
      "API Inference Extension reads.");
  set.AddChoice("log-level", &flags.log_level, {"debug", "info", "warning", "error"},
                "Least severe events to log.");
  set.AddChoice("log-format", &flags.log_format, {"logfmt", "json"}, "How to log, to stderr.");
  set.AddConfig();
}

/// The engine's limits for this model. INVALID_ARGUMENT names the flag that doesn't fit.
absl::StatusOr<EngineOptions> MakeEngineOptions(const ServeFlags& flags,
                                                const ModelConfig& config) {
  EngineOptions options;
  options.max_context =
      flags.max_context > 0 ? flags.max_context : std::min(config.max_context, kDefaultMaxContext);
  if (options.max_context > config.max_context) {
    return absl::InvalidArgumentError(absl::StrCat("--max-context ", options.max_context,
                                                   " is beyond the ", config.max_context,
                                                   " tokens that the model was trained for"));
  }
  const int kv_tokens =
      flags.kv_tokens > 0 ? flags.kv_tokens : std::max(kDefaultKvTokens, options.max_context);
  if (kv_tokens < options.max_context) {
    return absl::InvalidArgumentError(absl::StrCat("--kv-tokens ", kv_tokens,
                                                   " can't hold one sequence of --max-context ",
                                                   options.max_context, " tokens"));
  }
  options.kv_blocks = (kv_tokens + options.block_tokens - 1) / options.block_tokens;
  options.max_step_tokens = flags.max_step_tokens;
  options.max_running_sequences = flags.max_running;
  options.max_waiting_requests = flags.max_waiting;
  options.max_waiting_tokens = flags.max_waiting_tokens;
  options.recall = flags.recall;
  return options;
}

/// What requests may ask of attention. INVALID_ARGUMENT names the flag that doesn't fit.
absl::StatusOr<AttentionLimits> MakeAttentionLimits(const ServeFlags& flags) {
  AttentionLimits limits;
  limits.has_labels = !flags.label_file.empty();
  limits.min_sparsity = flags.min_sparsity;
  limits.max_sparsity = flags.max_sparsity;
  if (limits.min_sparsity > limits.max_sparsity) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--min-sparsity ", limits.min_sparsity, " is above --max-sparsity ", limits.max_sparsity));
  }
  AttentionPolicy& policy = limits.default_policy;
  const std::string fallback = limits.has_labels ? "double-sparsity" : "dense";
  const absl::StatusOr<SelectionKind> kind =
      ParsePolicyName(flags.policy.empty() ? fallback : flags.policy);
  if (!kind.ok() || *kind == SelectionKind::kScores) {
    return absl::InvalidArgumentError(
        absl::StrCat("--policy must be dense, double-sparsity or window, is ", flags.policy));
  }
  policy = {*kind, flags.sparsity, flags.budget_tokens};
  if (*kind == SelectionKind::kLabels && !limits.has_labels) {
    return absl::InvalidArgumentError(
        "--policy double-sparsity needs a --label-file, which `winnow calibrate` makes");
  }
  const double sparsity = *kind == SelectionKind::kAll ? 1 : policy.sparsity;
  if (sparsity < limits.min_sparsity || sparsity > limits.max_sparsity) {
    return absl::InvalidArgumentError(
        absl::StrCat("the default policy's sparsity ", sparsity, " is not within --min-sparsity ",
                     limits.min_sparsity, " and --max-sparsity ", limits.max_sparsity));
  }
  return limits;
}

/// SIGTERM and SIGINT, taken by the main thread instead of interrupting whichever runs.
class Signals {
 public:
  /// To be constructed before anything that starts threads, for they inherit what is blocked: a
  /// thread that does not block them has them end the process whenever the main one is not waiting.
  Signals() {
    sigemptyset(&set_);
    sigaddset(&set_, SIGTERM);
    sigaddset(&set_, SIGINT);
    pthread_sigmask(SIG_BLOCK, &set_, nullptr);
  }

  /// True if one came within `limit`.
  bool Wait(absl::Duration limit) const {
    const timespec timeout = absl::ToTimespec(limit);
    return sigtimedwait(&set_, nullptr, &timeout) > 0;
  }

 private:
  sigset_t set_;
};

absl::Duration StepTimeout(const ServeFlags& flags) {
  return flags.step_timeout_seconds > 0 ? absl::Seconds(flags.step_timeout_seconds)
                                        : absl::InfiniteDuration();
}

/// Looks whether the engine gets on. If its device has failed, all requests have ended with
/// UNAVAILABLE: the error is to end the server. If a step hangs, nothing can be waited for: the
/// process ends here, and its clients get UNAVAILABLE because their connections break.
absl::Status Watch(const Engine& engine, absl::Duration step_timeout, GrpcServer& server) {
  absl::Status status = CheckEngine(engine, step_timeout, absl::Now());
  if (status.ok()) return status;
  Log(LogLevel::kError, "unhealthy", {{"reason", std::string(status.message())}});
  server.SetServing(false);
  if (absl::IsDeadlineExceeded(status)) {
    absl::SleepFor(kHealthGrace);
    _exit(1);
  }
  server.Shutdown(kFlushLimit);
  return status;
}

/// Waits until `done`, as long as the engine gets on. A signal ends the process at once.
absl::Status WaitUntil(const std::function<bool()>& done, const ServeFlags& flags,
                       const Signals& signals, const Engine& engine, GrpcServer& server) {
  while (!done()) {
    if (absl::Status status = Watch(engine, StepTimeout(flags), server); !status.ok()) {
      return status;
    }
    if (!signals.Wait(kPollInterval)) continue;
    Log(LogLevel::kWarning, "aborted", {{"reason", "second signal"}});
    _exit(1);
  }
  return absl::OkStatus();
}

/// Has others take over, refuses new requests and lets the others finish.
absl::Status Drain(const ServeFlags& flags, const Signals& signals, Engine& engine,
                   GrpcServer& server) {
  Log(LogLevel::kInfo, "draining",
      {{"lame_duck_seconds", flags.lame_duck_seconds}, {"limit_seconds", flags.drain_seconds}});
  server.SetServing(false);
  if (flags.server.reuse_port) {
    if (absl::Status status = StopAccepting(server.port()); !status.ok()) {
      Log(LogLevel::kWarning, "still_accepting", {{"error", std::string(status.message())}});
    }
  }
  const absl::Time refuse = absl::Now() + absl::Seconds(flags.lame_duck_seconds);
  absl::Status status =
      WaitUntil([&] { return absl::Now() >= refuse; }, flags, signals, engine, server);
  if (!status.ok()) return status;
  engine.Drain(absl::Seconds(flags.drain_seconds));
  status = WaitUntil([&] { return engine.drained(); }, flags, signals, engine, server);
  if (!status.ok()) return status;
  server.Shutdown(kFlushLimit);
  Log(LogLevel::kInfo, "stopped");
  return absl::OkStatus();
}

void ReloadTokens(Authenticator& authenticator) {
  const absl::StatusOr<bool> changed = authenticator.Reload();
  if (!changed.ok()) {
    Log(LogLevel::kError, "tokens_not_reloaded",
        {{"error", std::string(changed.status().message())},
         {"reason", "the tokens from before still hold"}});
  } else if (*changed) {
    Log(LogLevel::kInfo, "tokens_reloaded");
  }
}

/// Host part of "HOST:PORT" with the port that was really taken.
std::string WithPort(const std::string& address, int port) {
  return absl::StrCat(address.substr(0, address.rfind(':') + 1), port);
}

absl::Status Serve(ServeFlags& flags, const Signals& signals) {
  const absl::Time started = absl::Now();
  // Before the model, which takes long to load.
  auto credentials = MakeServerCredentials(flags.tls);
  if (!credentials.ok()) return credentials.status();
  flags.server.credentials = *std::move(credentials);
  flags.server.min_ping_interval = absl::Seconds(flags.min_ping_seconds);
  if (flags.max_connection_age_seconds > 0) {
    flags.server.max_connection_age = absl::Seconds(flags.max_connection_age_seconds);
  }
  const auto authenticator = Authenticator::Open(flags.auth_tokens);
  if (!authenticator.ok()) return authenticator.status();
  if ((*authenticator)->wants_tokens() && !flags.tls.any() && !flags.auth_over_plaintext &&
      !IsLoopback(flags.server.address)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--auth-tokens on ", flags.server.address,
                     " would have tokens sent in plaintext: give --tls-cert and --tls-key, or "
                     "--auth-over-plaintext if a mesh or proxy encrypts"));
  }
  absl::StatusOr<ModelFile> file = ModelFile::Open(flags.model);
  if (!file.ok()) return file.status();
  absl::StatusOr<EngineOptions> options = MakeEngineOptions(flags, file->config);
  if (!options.ok()) return options.status();

  absl::StatusOr<AttentionLimits> attention = MakeAttentionLimits(flags);
  if (!attention.ok()) return attention.status();
  LoadOptions load = {.backend = {flags.device, flags.threads},
                      .kv_blocks = options->kv_blocks,
                      .block_tokens = options->block_tokens,
                      .max_step_tokens = options->max_step_tokens,
                      .selection = flags.selection,
                      .label_file = flags.label_file};
  load.selection.uniform_budgets = flags.budgets == "uniform";
  const absl::StatusOr<LoadedModel> loaded = LoadedModel::FromFile(*file->gguf, file->config, load);
  if (!loaded.ok()) return loaded.status();
  if (loaded->calibrated_context < options->max_context) {
    Log(LogLevel::kWarning, "beyond_calibration",
        {{"label_file", flags.label_file},
         {"calibrated_context", loaded->calibrated_context},
         {"max_context", options->max_context},
         {"reason", "labels may miss what matters at positions that calibration has not seen"}});
  }

  const ServedModel model = {
      .name = flags.model_name.empty() ? ModelNameFromPath(flags.model) : flags.model_name,
      .title = file->config.name,
      .architecture = file->config.architecture,
      .context_tokens = options->max_context,
      .trained_context_tokens = file->config.max_context,
      .max_sequences = options->max_running_sequences,
      .min_priority = flags.min_priority,
      .attention = *attention,
      .limits = flags.limits,
      .tokenizer = file->tokenizer.get(),
      .chat = file->chat};
  Log(LogLevel::kInfo, "loaded",
      {{"model", model.name},
       {"architecture", model.architecture},
       {"device", flags.device},
       {"context_tokens", options->max_context},
       {"kv_blocks", options->kv_blocks},
       {"kv_bytes", loaded->pools->kv_bytes()},
       {"label_bytes", loaded->pools->label_bytes()},
       {"policy", std::string(PolicyName(attention->default_policy.kind))},
       {"sparsity", attention->default_policy.sparsity},
       {"chat", model.chat.has_value()},
       {"seconds", absl::ToDoubleSeconds(absl::Now() - started)}});

  MetricsExporter metrics(model.name, model.architecture, loaded->pools->block_label_bytes());
  if (flags.inference_extension_metrics) metrics.ExportInferenceExtensionNames();
  Engine engine(*options, *loaded->transformer, *file->tokenizer, metrics);
  absl::StatusOr<std::unique_ptr<GrpcServer>> server =
      GrpcServer::Start(flags.server, model, engine, metrics, **authenticator);
  if (!server.ok()) return server.status();
  // Last, because it takes seconds to stop again when something after it fails.
  const absl::StatusOr<int> metrics_port = metrics.Listen(flags.metrics_address);
  if (!metrics_port.ok()) return metrics_port.status();
  (*server)->SetServing(true);
  Log(LogLevel::kInfo, "listening",
      {{"address", WithPort(flags.server.address, (*server)->port())},
       {"metrics_address", WithPort(flags.metrics_address, *metrics_port)},
       {"model", model.name},
       {"seconds", absl::ToDoubleSeconds(absl::Now() - started)}});

  absl::Time next_reload = absl::Now();
  while (!signals.Wait(kPollInterval)) {
    if (absl::Status status = Watch(engine, StepTimeout(flags), **server); !status.ok()) {
      return status;
    }
    (*server)->CutOffSlowReaders(absl::Seconds(flags.slow_reader_seconds));
    if (absl::Now() >= next_reload) {
      ReloadTokens(**authenticator);
      next_reload = absl::Now() + kReloadInterval;
    }
  }
  return Drain(flags, signals, engine, **server);
}

}  // namespace

int RunServe(std::span<const std::string> arguments) {
  const Signals signals;
  ServeFlags flags;
  FlagSet set("winnow serve", "Serves a model over gRPC until SIGTERM or SIGINT.");
  Declare(set, flags);
  if (std::optional<int> exit_code = ParseOrExitCode(set, arguments)) return *exit_code;
  if (flags.model.empty()) {
    std::fprintf(stderr, "winnow serve: --model is missing (see winnow serve --help)\n");
    return 2;
  }
  ConfigureLog(ParseLogLevel(flags.log_level), ParseLogFormat(flags.log_format));
  if (absl::Status status = Serve(flags, signals); !status.ok()) return Fail(set, status);
  return 0;
}

}  // namespace winnow
