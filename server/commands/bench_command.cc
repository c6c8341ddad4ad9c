#include <algorithm>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/attention/policy.h"
#include "engine/bench/attention_bench.h"
#include "engine/bench/bench_support.h"
#include "engine/bench/step_bench.h"
#include "engine/bench/synthetic_model.h"
#include "engine/model/checkpoint.h"
#include "engine/model/config.h"
#include "engine/model/label_file.h"
#include "engine/request/engine_options.h"
#include "kernels/devices/create_backend.h"
#include "nlohmann/json.hpp"
#include "server/commands/commands.h"
#include "server/commands/flags.h"
#include "server/commands/loaded_model.h"

namespace winnow {
namespace {

// A model with a KV pool of a benchmark's size.
struct BenchModel {
  std::unique_ptr<Checkpoint> checkpoint;  ///< or
  std::unique_ptr<SyntheticModel> synthetic;
  LoadedModel loaded;
};

struct BenchFlags {
  std::string model;
  int layers = 0;
  std::string device = "cpu";
  std::string policy = "dense";
  double sparsity = AttentionPolicy().sparsity;
  int budget_tokens = 0;
  std::string label_file;
  int label_width = 16;
  std::string tail = "on";
  int threads = 0;
  int batch = 1;
  int heads = 32;
  int kv_heads = 32;
  int head_dim = 128;
  int context = 1024;
  int max_step_tokens = EngineOptions().max_step_tokens;
  double seconds = 2;
  bool json = false;
};

void Declare(FlagSet& set, BenchFlags& flags) {
  set.AddChoice("device", &flags.device, {"cpu", "cuda"}, "Where to compute.");
  set.Add("threads", &flags.threads, "N", "Threads that compute; 0 is one per core.", {0, 1024});
  set.Add("context", &flags.context, "TOKENS", "Tokens of each sequence.", {1, 1 << 24});
  set.Add("seconds", &flags.seconds, "SECONDS", "How long to measure.", {0, 3600});
  set.Add("json", &flags.json, "", "Print one JSON object.");
}

void DeclareModel(FlagSet& set, BenchFlags& flags) {
  set.Add(
      "model", &flags.model, "MODEL",
      absl::StrCat(
          "The GGUF file or Hugging Face folder to measure, or random weights of a known shape: ",
          absl::StrJoin(SyntheticModel::Names(), ", "), ". Required."));
  set.Add("layers", &flags.layers, "N",
          "So many layers of a known shape, for devices that can't hold all; 0: all.", {0, 1024});
}

void DeclarePolicy(FlagSet& set, BenchFlags& flags) {
  set.Add("batch", &flags.batch, "N", "Sequences in the step.", {1, 4096});
  set.AddChoice("policy", &flags.policy, {"dense", "double-sparsity", "window"},
                "Which tokens a step attends to.");
  set.Add("sparsity", &flags.sparsity, "N", "Attend to one token in N.", {1, 1024});
  set.Add("budget-tokens", &flags.budget_tokens, "TOKENS",
          "Attend to so many tokens instead; 0: use --sparsity.", {0, 1 << 24});
  set.Add("label-width", &flags.label_width, "R", "Numbers of a label, without a label file.",
          {8, kMaxLabelWidth});
}

// INVALID_ARGUMENT if the flags name no selection.
absl::StatusOr<Selection> SelectionOf(const BenchFlags& flags) {
  if (flags.label_width % 8 != 0) {
    return absl::InvalidArgumentError("--label-width must be a multiple of 8");
  }
  const absl::StatusOr<SelectionKind> kind = ParsePolicyName(flags.policy);
  if (!kind.ok()) return kind.status();
  return winnow::SelectionOf({*kind, flags.sparsity, flags.budget_tokens});
}

absl::StatusOr<BenchModel> Load(const BenchFlags& flags, int tokens_per_sequence) {
  if (flags.model.empty()) return absl::InvalidArgumentError("--model is required");
  BenchModel model;
  ModelConfig config;
  const WeightSource* weights = nullptr;
  if (SyntheticModel::IsName(flags.model)) {
    absl::StatusOr<std::unique_ptr<SyntheticModel>> synthetic =
        SyntheticModel::Make(flags.model, flags.layers);
    if (!synthetic.ok()) return synthetic.status();
    model.synthetic = *std::move(synthetic);
    config = model.synthetic->config();
    weights = model.synthetic.get();
  } else {
    absl::StatusOr<std::unique_ptr<Checkpoint>> checkpoint = Checkpoint::Open(flags.model);
    if (!checkpoint.ok()) return checkpoint.status();
    model.checkpoint = *std::move(checkpoint);
    config = model.checkpoint->config();
    weights = &model.checkpoint->weights();
  }
  LoadOptions options = {.backend = {flags.device, flags.threads},
                         .max_step_tokens = std::max(flags.max_step_tokens, flags.batch),
                         .max_sequences = flags.batch,
                         .max_context = tokens_per_sequence,
                         .selection = {.tail = flags.tail == "on"},
                         .label_file = flags.label_file};
  options.kv_blocks =
      flags.batch * ((tokens_per_sequence + options.block_tokens - 1) / options.block_tokens);
  absl::StatusOr<LoadedModel> loaded;
  if (!flags.label_file.empty()) {
    if (model.checkpoint == nullptr) {
      return absl::InvalidArgumentError("--label-file: a synthetic model has random labels only");
    }
    loaded = LoadedModel::FromCheckpoint(*model.checkpoint, options);
  } else {
    std::optional<LabelFile> labels;
    if (flags.policy == "double-sparsity") labels = RandomLabels(config, flags.label_width);
    loaded = LoadedModel::FromWeights(*weights, config, labels ? &*labels : nullptr, options);
  }
  if (!loaded.ok()) return loaded.status();
  model.loaded = *std::move(loaded);
  return model;
}

int RunDecode(std::span<const std::string> arguments) {
  BenchFlags flags;
  FlagSet set("winnow bench decode",
              "Times steps that decode one token for each of several sequences.");
  Declare(set, flags);
  DeclareModel(set, flags);
  DeclarePolicy(set, flags);
  set.Add("label-file", &flags.label_file, "FILE",
          "Label basis, budgets and tail weights by head. Default: random labels, uniform budgets, "
          "no estimate of what is not chosen.");
  set.AddChoice(
      "tail", &flags.tail, {"on", "off"},
      "Whether what double-sparsity does not choose is estimated as the label file says.");
  if (std::optional<int> exit_code = ParseOrExitCode(set, arguments)) return *exit_code;
  const absl::StatusOr<Selection> selection = SelectionOf(flags);
  if (!selection.ok()) return Fail(set, selection.status());
  const absl::StatusOr<BenchModel> model = Load(flags, flags.context + 1);
  if (!model.ok()) return Fail(set, model.status());
  const absl::StatusOr<DecodeBenchResult> result =
      BenchDecode(*model->loaded.transformer, *model->loaded.backend, flags.batch, flags.context,
                  *selection, flags.seconds);
  if (!result.ok()) return Fail(set, result.status());
  if (flags.json) {
    const nlohmann::ordered_json json = {
        {"tokens_per_second", result->tokens_per_second},
        {"step_seconds", result->step_seconds},
        {"kv_bytes_read", result->kv_bytes_read},
        {"experts_read", result->experts_read},
        {"weight_bytes_read", result->weight_bytes_read},
        {"achieved_bytes_per_second", result->achieved_bytes_per_second},
        {"peak_bytes_per_second", result->peak_bytes_per_second}};
    std::puts(json.dump().c_str());
    return 0;
  }
  std::printf(
      "%s, batch %d, context %d: %.2f ms a step, %.1f tokens/s\n"
      "reads %.1f MB of weights and %.1f MB of KV a step: %.2f GB/s of the machine's %.2f GB/s\n",
      flags.policy.c_str(), flags.batch, flags.context, result->step_seconds * 1e3,
      result->tokens_per_second, static_cast<double>(result->weight_bytes_read) / 1e6,
      static_cast<double>(result->kv_bytes_read) / 1e6, result->achieved_bytes_per_second / 1e9,
      result->peak_bytes_per_second / 1e9);
  return 0;
}

int RunPrefill(std::span<const std::string> arguments) {
  BenchFlags flags;
  FlagSet set("winnow bench prefill", "Times the processing of one prompt.");
  Declare(set, flags);
  DeclareModel(set, flags);
  set.Add("max-step-tokens", &flags.max_step_tokens, "TOKENS", "Most tokens of one step.",
          {1, 65536});
  if (std::optional<int> exit_code = ParseOrExitCode(set, arguments)) return *exit_code;
  const absl::StatusOr<BenchModel> model = Load(flags, flags.context);
  if (!model.ok()) return Fail(set, model.status());
  const absl::StatusOr<PrefillBenchResult> result =
      BenchPrefill(*model->loaded.transformer, *model->loaded.backend, flags.context,
                   flags.max_step_tokens, flags.seconds);
  if (!result.ok()) return Fail(set, result.status());
  if (flags.json) {
    const nlohmann::ordered_json json = {
        {"tokens_per_second", result->tokens_per_second},
        {"achieved_flops_per_second", result->achieved_flops_per_second},
        {"peak_flops_per_second", result->peak_flops_per_second}};
    std::puts(json.dump().c_str());
    return 0;
  }
  std::printf("prompt of %d tokens: %.1f tokens/s, %.1f GFLOP/s; one large product: %.1f GFLOP/s\n",
              flags.context, result->tokens_per_second, result->achieved_flops_per_second / 1e9,
              result->peak_flops_per_second / 1e9);
  return 0;
}

int RunAttention(std::span<const std::string> arguments) {
  BenchFlags flags;
  FlagSet set(
      "winnow bench attention",
      "Times the attention of one layer in a decode step, beside dense attention in the same "
      "run.");
  Declare(set, flags);
  DeclarePolicy(set, flags);
  set.AddChoice(
      "tail", &flags.tail, {"on", "off"},
      "Whether double-sparsity is also timed with an estimate of what it does not choose.");
  set.Add("heads", &flags.heads, "H", "Query heads.", {1, 1024});
  set.Add("kv-heads", &flags.kv_heads, "G", "Key and value heads; divides the query heads.",
          {1, 1024});
  set.Add("head-dim", &flags.head_dim, "D", "Size of a head: a multiple of 16.", {16, 256});
  if (std::optional<int> exit_code = ParseOrExitCode(set, arguments)) return *exit_code;
  const absl::StatusOr<Selection> selection = SelectionOf(flags);
  if (!selection.ok()) return Fail(set, selection.status());
  if (flags.heads % flags.kv_heads != 0 || flags.heads / flags.kv_heads > 64) {
    return Fail(set, absl::InvalidArgumentError(
                         "--heads must be a multiple of --kv-heads, at most 64 times as many"));
  }
  if (flags.head_dim % 16 != 0) {
    return Fail(set, absl::InvalidArgumentError("--head-dim must be a multiple of 16"));
  }
  const absl::StatusOr<std::unique_ptr<Backend>> backend =
      CreateBackend({flags.device, flags.threads});
  if (!backend.ok()) return Fail(set, backend.status());
  AttentionBenchOptions options = {.batch = flags.batch,
                                   .context = flags.context,
                                   .heads = flags.heads,
                                   .kv_heads = flags.kv_heads,
                                   .head_dim = flags.head_dim,
                                   .label_width = flags.label_width,
                                   .selection = {},
                                   .seconds = flags.seconds};
  const absl::StatusOr<AttentionBenchResult> dense = BenchAttention(**backend, options);
  if (!dense.ok()) return Fail(set, dense.status());
  options.selection = *selection;
  const bool sparse = selection->kind != SelectionKind::kAll;
  const absl::StatusOr<AttentionBenchResult> no_tail =
      sparse ? BenchAttention(**backend, options) : dense;
  if (!no_tail.ok()) return Fail(set, no_tail.status());
  options.tail = flags.tail == "on" && selection->kind == SelectionKind::kLabels;
  const absl::StatusOr<AttentionBenchResult> result =
      options.tail ? BenchAttention(**backend, options) : no_tail;
  if (!result.ok()) return Fail(set, result.status());
  const double peak = (*backend)->MeasureReadBandwidth();
  if (flags.json) {
    nlohmann::ordered_json json = {{"peak_bytes_per_second", peak}};
    const auto add = [&](const std::string& prefix, const AttentionBenchResult& one) {
      json[prefix + "seconds"] = one.seconds;
      json[prefix + "bytes"] = one.bytes;
      json[prefix + "achieved_bytes_per_second"] = one.achieved_bytes_per_second;
    };
    add("", *result);
    if (options.tail) add("no_tail_", *no_tail);
    add("dense_", *dense);
    std::puts(json.dump().c_str());
    return 0;
  }
  const auto print = [&](const char* name, const AttentionBenchResult& one) {
    std::printf("%-15s %8.1f us, %8.2f MB, %6.2f GB/s, %.2f times dense\n", name, one.seconds * 1e6,
                static_cast<double>(one.bytes) / 1e6, one.achieved_bytes_per_second / 1e9,
                dense->seconds / one.seconds);
  };
  std::printf(
      "batch %d, context %d, %d heads of %d over %d KV heads; the machine reads %.2f GB/s\n",
      flags.batch, flags.context, flags.heads, flags.head_dim, flags.kv_heads, peak / 1e9);
  print("dense", *dense);
  if (sparse) print(flags.policy.c_str(), *no_tail);
  if (options.tail) print("  with a tail", *result);
  return 0;
}

}  // namespace

int RunBench(std::span<const std::string> arguments) {
  constexpr const char* kUsage =
      "Measures the speed of this machine.\n\n"
      "Usage: winnow bench attention|decode|prefill [flags]\n\n"
      "`winnow bench decode --help` shows the flags.\n";
  const std::string name = arguments.empty() ? "" : arguments[0];
  if (name == "attention") return RunAttention(arguments.subspan(1));
  if (name == "decode") return RunDecode(arguments.subspan(1));
  if (name == "prefill") return RunPrefill(arguments.subspan(1));
  const bool help = name == "--help" || name == "-h";
  std::fputs(kUsage, help ? stdout : stderr);
  return help ? 0 : 2;
}

}  // namespace winnow
