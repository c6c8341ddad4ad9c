#include "server/commands/serve_flags.h"

#include "absl/strings/str_cat.h"
#include "server/commands/serve_options.h"

namespace winnow {

void DeclareServeFlags(FlagSet& set, ServeFlags& flags) {
  set.Add("model", &flags.model, "MODEL",
          "The GGUF file or Hugging Face folder to serve. Required.");
  set.Add("model-name", &flags.model_name, "NAME",
          "What requests call the model. Default: the name of its file, without .gguf, or folder.");
  set.Add("address", &flags.address, "HOST:PORT",
          "Where to serve gRPC; unix:PATH is a socket in the file system. Port 0 takes a free one "
          "and logs it.");
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
                       "was trained for, at most what the KV pool holds, and ",
                       kDefaultMaxContext, " on the CPU."),
          {0, 1 << 24});
  set.AddNumberOr(
      "auto", "kv-tokens", &flags.kv_tokens, "TOKENS",
      absl::StrCat("Size of the KV pool that all sequences share, in tokens that all layers keep "
                   "(those behind a sliding window cost less); `winnow inspect` tells the bytes "
                   "per token. auto, or 0, is what a GPU has room for; on the CPU ",
                   kDefaultKvTokens, " or one sequence of --max-context, if that is more."),
      {0, 1 << 30});
  set.Add(
      "memory-fraction", &flags.memory_fraction, "SHARE",
      "How much of a GPU's memory may be used with --kv-tokens auto, by weights, steps and what "
      "others use, too; the rest is for what the driver takes later.",
      {0.01, 1});
  set.Add(
      "kv-host-bytes", &flags.kv_host_bytes, "N",
      "Host memory for KV blocks of known prefixes that the KV pool has no room for any more, so "
      "that they need not be computed again; 0 is none. See docs/offload.md.",
      {0, 1e15});
  set.Add("kv-host-file", &flags.kv_host_file, "FILE",
          "Have these blocks in a new file instead, of --kv-host-bytes; on the CPU. It has no name "
          "any more once the server runs, and goes with it.");
  set.Add("max-step-tokens", &flags.max_step_tokens, "TOKENS",
          "Most tokens that one step computes. More speeds up long prompts; less lets running "
          "answers stall less while prompts are read.",
          {1, 65536});
  set.Add(
      "max-running", &flags.max_running, "N",
      "Most sequences that are computed at a time. What is estimated of tokens that they do not "
      "choose takes some memory for each.",
      {1, 65536});
  set.Add("max-waiting", &flags.max_waiting, "N",
          "Most requests that wait for their turn; more get RESOURCE_EXHAUSTED.", {1, 1 << 20});
  set.Add("max-waiting-tokens", &flags.max_waiting_tokens, "TOKENS",
          "Most prompt tokens that wait for their turn, unless of a single request; more get "
          "RESOURCE_EXHAUSTED.",
          {1, 1 << 30});
  set.Add(
      "max-message-bytes", &flags.server.max_message_bytes, "N",
      "Largest message: of a request, more gets RESOURCE_EXHAUSTED, and of an answer that is not "
      "streamed.",
      {1024, 1 << 30});
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
  set.AddChoice("generation-config", &flags.generation_config, {"auto", "off"},
                "How requests are sampled that do not say: as the model's authors recommend in "
                "generation_config.json, or as if they recommended nothing.");
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
  set.AddChoice("tail", &flags.tail, {"by-head", "off"},
                "Estimate what double-sparsity does not choose, and count it as the label file "
                "says, or leave it out.");
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

}  // namespace winnow
