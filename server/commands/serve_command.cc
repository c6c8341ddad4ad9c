#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/engine.h"
#include "engine/text/sampling_defaults.h"
#include "server/base/utf8.h"
#include "server/commands/commands.h"
#include "server/commands/flags.h"
#include "server/commands/host_memory.h"
#include "server/commands/loaded_model.h"
#include "server/commands/model_file.h"
#include "server/commands/serve_flags.h"
#include "server/commands/serve_loop.h"
#include "server/commands/serve_options.h"
#include "server/grpc/grpc_server.h"
#include "server/net/address.h"
#include "server/net/descriptors.h"
#include "server/observability/log.h"
#include "server/observability/log_thread.h"
#include "server/observability/metrics_exporter.h"
#include "server/security/auth.h"
#include "server/security/tls.h"
#include "server/session/served_model.h"
#include "server/session/session_context.h"

namespace winnow {
namespace {

/// What a flag says of where to listen. INVALID_ARGUMENT names it.
absl::StatusOr<Address> AddressOf(const char* flag, const std::string& text) {
  absl::StatusOr<Address> address = ParseAddress(text);
  if (address.ok()) return address;
  return absl::InvalidArgumentError(
      absl::StrCat(flag, " ", std::string(address.status().message())));
}

absl::Status Serve(ServeFlags& flags, const Signals& signals) {
  const absl::Time started = absl::Now();
  RaiseDescriptorLimit();
  // Before the model, which takes long to load.
  const absl::StatusOr<Address> address = AddressOf("--address", flags.address);
  if (!address.ok()) return address.status();
  flags.server.address = *address;
  absl::StatusOr<Address> metrics_address = AddressOf("--metrics-address", flags.metrics_address);
  if (!metrics_address.ok()) return metrics_address.status();
  if (metrics_address->is_unix()) {
    return absl::InvalidArgumentError("--metrics-address must be HOST:PORT");
  }
  if (!IsUtf8(flags.model_name)) return absl::InvalidArgumentError("--model-name must be UTF-8");
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
      !address->IsLoopback()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--auth-tokens on ", flags.address,
                     " would have tokens sent in plaintext: give --tls-cert and --tls-key, or "
                     "--auth-over-plaintext if a mesh or proxy encrypts"));
  }
  absl::Status host_memory = CheckHostMemory(flags, MachineMemoryBytes());
  if (!host_memory.ok()) return host_memory;
  absl::StatusOr<ModelFile> file = ModelFile::Open(flags.model, LongestContext(flags));
  if (!file.ok()) return file.status();
  absl::StatusOr<EngineOptions> options = MakeEngineOptions(flags, file->config());
  if (!options.ok()) return options.status();

  absl::StatusOr<AttentionLimits> attention = MakeAttentionLimits(flags);
  if (!attention.ok()) return attention.status();
  LoadOptions load = {.backend = {flags.device, flags.threads},
                      .kv_blocks = options->kv_blocks,
                      .memory_fraction = flags.memory_fraction,
                      .block_tokens = options->block_tokens,
                      .max_step_tokens = options->max_step_tokens,
                      .max_sequences = options->max_running_sequences,
                      .max_context = options->max_context,
                      .selection = flags.selection,
                      .label_file = flags.label_file};
  load.selection.uniform_budgets = flags.budgets == "uniform";
  load.selection.tail = flags.tail == "by-head";
  const absl::StatusOr<LoadedModel> loaded = LoadedModel::FromCheckpoint(*file->checkpoint, load);
  absl::Status status = loaded.status();
  if (status.ok()) status = FitToPool(flags, loaded->pools->blocks(), *options);
  if (absl::IsResourceExhausted(status)) {
    return absl::ResourceExhaustedError(absl::StrCat(
        status.message(), "; less is needed with lower --kv-tokens, --max-step-tokens, ",
        "--max-context or --max-running"));
  }
  if (!status.ok()) return status;
  const absl::StatusOr<int> host_slots = TakeHostMemory(flags, *loaded->backend, *loaded->pools);
  if (!host_slots.ok()) return host_slots.status();
  options->host_slots = *host_slots;
  if (loaded->calibrated_context < options->max_context) {
    Log(LogLevel::kWarning, "beyond_calibration",
        {{"label_file", flags.label_file},
         {"calibrated_context", loaded->calibrated_context},
         {"max_context", options->max_context},
         {"reason", "labels may miss what matters at positions that calibration has not seen"}});
  }

  if (!file->chat.ok()) {
    Log(LogLevel::kWarning, "no_chat", {{"reason", std::string(file->chat.status().message())}});
  }
  const SamplingDefaults authors =
      flags.generation_config == "auto" ? file->text.sampling : SamplingDefaults();
  flags.limits.answer_bytes = flags.server.max_message_bytes;
  const ServedModel model = {
      .name = flags.model_name.empty() ? ModelNameFromPath(flags.model) : flags.model_name,
      .title = ToUtf8(file->config().name),
      .architecture = file->config().architecture,
      .context_tokens = options->max_context,
      .trained_context_tokens = file->config().max_context,
      .max_sequences = options->max_running_sequences,
      .min_priority = flags.min_priority,
      .attention = *attention,
      .limits = flags.limits,
      .sampling = DefaultSampling(authors),
      .tokenizer = file->text.tokenizer.get(),
      .mean_token_bytes = MeanTokenBytes(*file->text.tokenizer),
      .chat = file->chat.ok() ? std::optional(*std::move(file->chat)) : std::nullopt};
  if (authors != SamplingDefaults()) {
    Log(LogLevel::kInfo, "sampling_defaults",
        {{"temperature", model.sampling.temperature},
         {"top_k", model.sampling.top_k},
         {"top_p", model.sampling.top_p},
         {"min_p", model.sampling.min_p},
         {"repetition_penalty", model.sampling.repetition_penalty},
         {"from", "generation_config.json"}});
  }
  Log(LogLevel::kInfo, "loaded",
      {{"model", model.name},
       {"architecture", model.architecture},
       {"device", flags.device},
       {"context_tokens", options->max_context},
       {"kv_blocks", options->kv_blocks * loaded->pools->groups()},
       {"kv_bytes", loaded->pools->kv_bytes()},
       {"label_bytes", loaded->pools->label_bytes()},
       {"summary_bytes", loaded->pools->summary_bytes()},
       {"kv_host_blocks", options->host_slots},
       {"kv_host_bytes", options->host_slots * loaded->pools->slot_bytes()},
       {"tail", loaded->pools->summary_bytes() > 0 ? "by-head" : "off"},
       {"policy", std::string(PolicyName(attention->default_policy.kind))},
       {"sparsity", attention->default_policy.sparsity},
       {"chat", model.chat.has_value()},
       {"seconds", absl::ToDoubleSeconds(absl::Now() - started)}});

  MetricsExporter metrics(
      model.name, model.architecture,
      {.labels = loaded->pools->block_label_bytes(), .all = loaded->pools->slot_bytes()});
  if (flags.inference_extension_metrics) metrics.ExportInferenceExtensionNames();
  Engine engine(*options, *loaded->transformer, *loaded->pools, *file->text.tokenizer, metrics);
  SessionContext context = {
      .model = model, .engine = engine, .metrics = metrics, .authenticator = **authenticator};
  absl::StatusOr<std::unique_ptr<GrpcServer>> server = GrpcServer::Start(flags.server, context);
  if (!server.ok()) return server.status();
  // Last, because it takes seconds to stop again when something after it fails.
  const absl::StatusOr<int> metrics_port = metrics.Listen(metrics_address->Text());
  if (!metrics_port.ok()) return metrics_port.status();
  metrics_address->port = *metrics_port;
  (*server)->SetServing(true);
  Log(LogLevel::kInfo, "listening",
      {{"address", (*server)->address().Text()},
       {"metrics_address", metrics_address->Text()},
       {"model", model.name},
       {"descriptors", DescriptorLimit()},
       {"seconds", absl::ToDoubleSeconds(absl::Now() - started)}});

  return ServeLoop(flags, signals, context, **authenticator, **server).Run();
}

}  // namespace

int RunServe(std::span<const std::string> arguments) {
  const Signals signals;
  ServeFlags flags;
  FlagSet set("winnow serve", "Serves a model over gRPC until SIGTERM or SIGINT.");
  DeclareServeFlags(set, flags);
  if (std::optional<int> exit_code = ParseOrExitCode(set, arguments)) return *exit_code;
  if (flags.model.empty()) {
    std::fprintf(stderr, "winnow serve: --model is missing (see winnow serve --help)\n");
    return 2;
  }
  ConfigureLog(ParseLogLevel(flags.log_level), ParseLogFormat(flags.log_format));
  absl::Status status;
  {
    const LogThread log_thread;  // once signals are blocked
    status = Serve(flags, signals);
  }
  return status.ok() ? 0 : Fail(set, status);
}

}  // namespace winnow
