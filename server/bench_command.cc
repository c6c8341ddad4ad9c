#include <algorithm>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "engine/bench/step_bench.h"
#include "engine/engine_options.h"
#include "engine/model/config.h"
#include "engine/model/gguf.h"
#include "engine/model/transformer.h"
#include "kernels/cpu/cpu_backend.h"
#include "nlohmann/json.hpp"
#include "server/commands.h"
#include "server/flags.h"

namespace winnow {
namespace {

// A model with a KV pool of a benchmark's size.
struct BenchModel {
  std::unique_ptr<GgufFile> file;
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Transformer> transformer;
};

struct BenchFlags {
  std::string model;
  std::string device = "cpu";
  std::string policy = "dense";
  int threads = 0;
  int batch = 1;
  int context = 1024;
  int max_step_tokens = EngineOptions().max_step_tokens;
  double seconds = 2;
  bool json = false;
};

void Declare(FlagSet& set, BenchFlags& flags) {
  set.Add("model", &flags.model, "FILE", "The GGUF file to measure. Required.");
  set.AddChoice("device", &flags.device, {"cpu"}, "Where to compute.");
  set.Add("threads", &flags.threads, "N", "Threads that compute; 0 is one per core.", {0, 1024});
  set.Add("context", &flags.context, "TOKENS", "Tokens of each sequence.", {1, 1 << 24});
  set.Add("seconds", &flags.seconds, "SECONDS", "How long to measure.", {0, 3600});
  set.Add("json", &flags.json, "", "Print one JSON object.");
}

absl::StatusOr<BenchModel> Load(const BenchFlags& flags, int tokens_per_sequence) {
  if (flags.model.empty()) return absl::InvalidArgumentError("--model is required");
  BenchModel model;
  absl::StatusOr<std::unique_ptr<GgufFile>> file = GgufFile::Open(flags.model);
  if (!file.ok()) return file.status();
  model.file = *std::move(file);
  const absl::StatusOr<ModelConfig> config = ModelConfig::FromGguf(*model.file);
  if (!config.ok()) return config.status();
  model.backend = CreateCpuBackend({.threads = flags.threads});
  const int block_tokens = EngineOptions().block_tokens;
  const int blocks = flags.batch * ((tokens_per_sequence + block_tokens - 1) / block_tokens);
  absl::StatusOr<std::unique_ptr<Transformer>> transformer =
      Transformer::Load(*model.file, *config, *model.backend,
                        {.blocks = blocks,
                         .block_tokens = block_tokens,
                         .max_step_tokens = std::max(flags.max_step_tokens, flags.batch)});
  if (!transformer.ok()) return transformer.status();
  model.transformer = *std::move(transformer);
  return model;
}

int RunDecode(std::span<const std::string> arguments) {
  BenchFlags flags;
  FlagSet set("winnow bench decode",
              "Times steps that decode one token for each of several sequences.");
  Declare(set, flags);
  set.Add("batch", &flags.batch, "N", "Sequences in the step.", {1, 4096});
  set.AddChoice("policy", &flags.policy, {"dense"}, "Which tokens a step attends to.");
  if (std::optional<int> exit_code = ParseOrExitCode(set, arguments)) return *exit_code;
  const absl::StatusOr<BenchModel> model = Load(flags, flags.context + 1);
  if (!model.ok()) return Fail(set, model.status());
  const absl::StatusOr<DecodeBenchResult> result =
      BenchDecode(*model->transformer, *model->backend, flags.batch, flags.context, flags.seconds);
  if (!result.ok()) return Fail(set, result.status());
  if (flags.json) {
    const nlohmann::ordered_json json = {
        {"tokens_per_second", result->tokens_per_second},
        {"step_seconds", result->step_seconds},
        {"kv_bytes_read", result->kv_bytes_read},
        {"weight_bytes_read", result->weight_bytes_read},
        {"achieved_bytes_per_second", result->achieved_bytes_per_second},
        {"peak_bytes_per_second", result->peak_bytes_per_second}};
    std::puts(json.dump().c_str());
    return 0;
  }
  std::printf(
      "batch %d, context %d: %.2f ms a step, %.1f tokens/s\n"
      "reads %.1f MB of weights and %.1f MB of KV a step: %.2f GB/s of the machine's %.2f GB/s\n",
      flags.batch, flags.context, result->step_seconds * 1e3, result->tokens_per_second,
      static_cast<double>(result->weight_bytes_read) / 1e6,
      static_cast<double>(result->kv_bytes_read) / 1e6, result->achieved_bytes_per_second / 1e9,
      result->peak_bytes_per_second / 1e9);
  return 0;
}

int RunPrefill(std::span<const std::string> arguments) {
  BenchFlags flags;
  FlagSet set("winnow bench prefill", "Times the processing of one prompt.");
  Declare(set, flags);
  set.Add("max-step-tokens", &flags.max_step_tokens, "TOKENS", "Most tokens of one step.",
          {1, 65536});
  if (std::optional<int> exit_code = ParseOrExitCode(set, arguments)) return *exit_code;
  const absl::StatusOr<BenchModel> model = Load(flags, flags.context);
  if (!model.ok()) return Fail(set, model.status());
  const absl::StatusOr<PrefillBenchResult> result =
      BenchPrefill(*model->transformer, flags.context, flags.max_step_tokens, flags.seconds);
  if (!result.ok()) return Fail(set, result.status());
  if (flags.json) {
    const nlohmann::ordered_json json = {
        {"tokens_per_second", result->tokens_per_second},
        {"achieved_flops_per_second", result->achieved_flops_per_second}};
    std::puts(json.dump().c_str());
    return 0;
  }
  std::printf("prompt of %d tokens: %.1f tokens/s, %.1f GFLOP/s\n", flags.context,
              result->tokens_per_second, result->achieved_flops_per_second / 1e9);
  return 0;
}

}  // namespace

int RunBench(std::span<const std::string> arguments) {
  constexpr const char* kUsage =
      "Measures the speed of this machine.\n\n"
      "Usage: winnow bench decode|prefill [flags]\n\n"
      "`winnow bench decode --help` shows the flags.\n";
  const std::string name = arguments.empty() ? "" : arguments[0];
  if (name == "decode") return RunDecode(arguments.subspan(1));
  if (name == "prefill") return RunPrefill(arguments.subspan(1));
  const bool help = name == "--help" || name == "-h";
  std::fputs(kUsage, help ? stdout : stderr);
  return help ? 0 : 2;
}

}  // namespace winnow
