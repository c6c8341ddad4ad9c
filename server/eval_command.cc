#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "engine/attention/label_file.h"
#include "engine/attention/policy.h"
#include "engine/engine_options.h"
#include "engine/eval/perplexity.h"
#include "engine/model/transformer.h"
#include "kernels/cpu/cpu_backend.h"
#include "server/commands.h"
#include "server/flags.h"
#include "server/model_file.h"
#include "server/progress.h"

namespace winnow {
namespace {

constexpr FlagSet::Range kSparsityRange = {1, 1024};
/// More makes steps hardly faster, and their logits large.
constexpr int kStepRows = 256;

/// What all evaluations have in common.
struct EvalFlags {
  std::string model;
  std::string label_file;
  std::string policies = "dense,double-sparsity,window";
  std::string sparsity = "16";
  int budget_tokens = 0;
  std::string budgets = "by-head";
  SelectionOptions selection;
  int threads = 0;
  bool json = false;
};

void Declare(FlagSet& set, EvalFlags& flags) {
  set.Add("model", &flags.model, "FILE", "The GGUF file to evaluate. Required.");
  set.Add("label-file", &flags.label_file, "FILE",
          "What `winnow calibrate` found for this model; double-sparsity needs it.");
  set.Add(
      "policies", &flags.policies, "NAME,...",
      "What to compare: dense, double-sparsity, window, and true-scores, which selects by exact "
      "scores to tell what selecting costs apart from what labels cost.");
  set.Add("sparsity", &flags.sparsity, "N,...",
          "Attend to one token in N. Several are compared in turn by every policy but dense.");
  set.Add(
      "budget-tokens", &flags.budget_tokens, "TOKENS",
      "Instead of --sparsity: attend to so many tokens, whatever the context. 0: use --sparsity.",
      {0, 1 << 24});
  set.AddChoice("budgets", &flags.budgets, {"by-head", "uniform"},
                "Spread the budget over the heads as the label file says, or evenly.");
  set.Add("dense-layers", &flags.selection.dense_layers, "N", "First layers that stay dense.",
          {0, 1024});
  set.Add("sinks", &flags.selection.sinks, "TOKENS", "First tokens, always attended to.",
          {0, 65536});
  set.Add("window", &flags.selection.window, "TOKENS", "Most recent tokens, always attended to.",
          {1, 65536});
  set.Add("threads", &flags.threads, "N", "Threads that compute; 0 is one per core.", {0, 1024});
  set.Add("json", &flags.json, "", "Print one JSON object.");
}

/// The policies to compare. INVALID_ARGUMENT names the flag at fault.
absl::StatusOr<std::vector<AttentionPolicy>> ReadPolicies(const EvalFlags& flags) {
  std::vector<double> sparsities;
  const std::vector<std::string> numbers = absl::StrSplit(flags.sparsity, ',');
  for (const std::string& number : numbers) {
    double sparsity = 0;
    if (!absl::SimpleAtod(number, &sparsity) || !(sparsity >= kSparsityRange.min) ||
        !(sparsity <= kSparsityRange.max)) {
      return absl::InvalidArgumentError(absl::StrCat("--sparsity must be numbers from ",
                                                     kSparsityRange.min, " to ", kSparsityRange.max,
                                                     ", separated by commas, is ", flags.sparsity));
    }
    sparsities.push_back(sparsity);
  }
  // A number of tokens replaces all of them.
  if (flags.budget_tokens > 0) sparsities.resize(1);
  std::vector<AttentionPolicy> policies;
  const std::vector<std::string> names = absl::StrSplit(flags.policies, ',');
  for (const std::string& name : names) {
    const absl::StatusOr<SelectionKind> kind = ParsePolicyName(name);
    if (!kind.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("--policies: ", std::string(kind.status().message())));
    }
    if (*kind == SelectionKind::kAll) {
      policies.push_back({.kind = *kind, .sparsity = 1});
      continue;
    }
    if (*kind == SelectionKind::kLabels && flags.label_file.empty()) {
      return absl::InvalidArgumentError(
          "policy double-sparsity needs a --label-file, which `winnow calibrate` makes");
    }
    for (const double sparsity : sparsities) {
      policies.push_back({*kind, sparsity, flags.budget_tokens});
    }
  }
  return policies;
}

/// A model that is evaluated, with a KV pool for one sequence.
struct EvalModel {
  ModelFile file;
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Transformer> transformer;
};

absl::StatusOr<ModelFile> OpenModel(const EvalFlags& flags) {
  if (flags.model.empty()) return absl::InvalidArgumentError("--model is missing");
  return ModelFile::Open(flags.model);
}

/// Loads the weights, with a pool of `tokens`.
absl::StatusOr<EvalModel> LoadModel(const EvalFlags& flags, ModelFile file, int tokens) {
  EvalModel model;
  model.file = std::move(file);
  if (tokens > model.file.config.max_context) {
    return absl::InvalidArgumentError(
        absl::StrCat("a context of ", tokens, " tokens is beyond the ",
                     model.file.config.max_context, " that the model was trained for"));
  }
  std::optional<LabelFile> labels;
  if (!flags.label_file.empty()) {
    absl::StatusOr<LabelFile> read =
        LabelFile::Read(flags.label_file, *model.file.gguf, model.file.config);
    if (!read.ok()) return read.status();
    labels = *std::move(read);
    if (labels->calibrated_context < tokens) {
      std::fprintf(stderr, "warning: labels were calibrated up to position %d, the context is %d\n",
                   labels->calibrated_context, tokens);
    }
  }
  model.backend = CreateCpuBackend({.threads = flags.threads});
  const int block_tokens = EngineOptions().block_tokens;
  KvOptions kv = {.blocks = (tokens + block_tokens - 1) / block_tokens,
                  .block_tokens = block_tokens,
                  .max_step_tokens = kStepRows,
                  .selection = flags.selection,
                  .labels = labels ? &*labels : nullptr};
  kv.selection.uniform_budgets = flags.budgets == "uniform";
  absl::StatusOr<std::unique_ptr<Transformer>> transformer =
      Transformer::Load(*model.file.gguf, model.file.config, *model.backend, kv);
  if (!transformer.ok()) return transformer.status();
  model.transformer = *std::move(transformer);
  return model;
}

absl::StatusOr<std::string> ReadText(const std::string& path, const char* flag) {
  if (path.empty()) return absl::InvalidArgumentError(absl::StrCat(flag, " is missing"));
  std::ifstream file(path, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (!file) return absl::NotFoundError(absl::StrCat("can't read ", flag, " ", path));
  return text;
}

/// A text's tokens, at least `windows` * `context` of them.
absl::StatusOr<std::vector<int32_t>> ReadTokens(const std::string& path, const ModelFile& file,
                                                int windows, int context) {
  const absl::StatusOr<std::string> text = ReadText(path, "--text");
  if (!text.ok()) return text.status();
  std::vector<int32_t> tokens =
      file.tokenizer->Encode(*text, /*parse_special=*/false, /*add_bos=*/true);
  if (static_cast<int64_t>(tokens.size()) < int64_t{windows} * context) {
    return absl::InvalidArgumentError(absl::StrCat("--text has ", tokens.size(), " tokens, ",
                                                   windows, " windows of --context ", context,
                                                   " need ", int64_t{windows} * context));
  }
  return tokens;
}

/// An observer that moves a bar of `total` rows.
RowsObserver Advance(ProgressBar& bar, int64_t total) {
  return [&bar, total, done = int64_t{0}](int rows) mutable {
    done += rows;
    bar.Update(static_cast<double>(done) / static_cast<double>(total));
  };
}

/// How a policy is called in tables: "double-sparsity 1/16", "window, 128 tokens".
std::string Title(const AttentionPolicy& policy) {
  std::string title(PolicyName(policy.kind));
  if (policy.kind == SelectionKind::kAll) return title;
  if (policy.budget_tokens > 0) return absl::StrCat(title, ", ", policy.budget_tokens, " tokens");
  return absl::StrCat(title, " 1/", policy.sparsity);
}

/// What every result tells of its policy: the label width if it selects by labels.
void AddPolicy(const AttentionPolicy& policy, const EvalModel& model,
               nlohmann::ordered_json* json) {
  if (policy.budget_tokens > 0) {
    (*json)["budget_tokens"] = policy.budget_tokens;
  } else {
    (*json)["sparsity"] = policy.sparsity;
  }
  if (policy.kind == SelectionKind::kLabels) {
    (*json)["label_width"] = model.transformer->label_cache().width;
  }
}

// winnow eval perplexity

struct PerplexityFlags {
  EvalFlags common;
  std::string text;
  PerplexityOptions options = {.step_rows = kStepRows};
};

/// Perplexity of the dense policy, none if it was not evaluated.
std::optional<double> DensePerplexity(const std::vector<PerplexityResult>& results) {
  for (const PerplexityResult& result : results) {
    if (result.policy.kind == SelectionKind::kAll) return result.perplexity;
  }
  return std::nullopt;
}

double BudgetFraction(const KvTraffic& traffic) {
  return static_cast<double>(traffic.attended_tokens) / static_cast<double>(traffic.context_tokens);
}

void PrintPerplexityJson(const std::vector<PerplexityResult>& results, const EvalModel& model,
                         const PerplexityOptions& options) {
  const std::optional<double> dense = DensePerplexity(results);
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const PerplexityResult& result : results) {
    nlohmann::ordered_json json = {{"policy", std::string(PolicyName(result.policy.kind))},
                                   {"perplexity", result.perplexity},
                                   {"mean_budget_fraction", BudgetFraction(result.traffic)},
                                   {"recall", result.recall},
                                   {"kv_bytes_read", result.traffic.bytes()},
                                   {"kv_bytes_dense", result.traffic.equivalent_bytes}};
    AddPolicy(result.policy, model, &json);
    if (dense) json["perplexity_increase_percent"] = 100 * (result.perplexity / *dense - 1);
    json["scored_tokens"] = result.tokens;
    list.push_back(std::move(json));
  }
  const nlohmann::ordered_json json = {
      {"results", list}, {"context", options.context}, {"windows", options.windows}};
  std::puts(json.dump().c_str());
}

void PrintPerplexityTable(const std::vector<PerplexityResult>& results) {
  const std::optional<double> dense = DensePerplexity(results);
  std::printf("%-24s %10s %9s %8s %8s %14s %8s\n", "policy", "perplexity", "vs dense", "budget",
              "recall", "KV read", "of dense");
  for (const PerplexityResult& result : results) {
    const KvTraffic& traffic = result.traffic;
    std::printf(
        "%-24s %10.3f %9s %6.2f %% %8.4f %11.3f MB %6.2f %%\n", Title(result.policy).c_str(),
        result.perplexity,
        dense ? absl::StrFormat("%+.2f %%", 100 * (result.perplexity / *dense - 1)).c_str() : "",
        100 * BudgetFraction(traffic), result.recall,
        static_cast<double>(traffic.bytes()) / static_cast<double>(result.tokens) / 1e6,
        100.0 * static_cast<double>(traffic.bytes()) /
            static_cast<double>(traffic.equivalent_bytes));
  }
  std::printf("%lld tokens scored by each policy; KV read is per token, labels included\n",
              static_cast<long long>(results[0].tokens));
}

absl::Status EvaluatePerplexity(const PerplexityFlags& flags) {
  PerplexityOptions options = flags.options;
  const absl::StatusOr<std::vector<AttentionPolicy>> policies = ReadPolicies(flags.common);
  if (!policies.ok()) return policies.status();
  absl::StatusOr<ModelFile> file = OpenModel(flags.common);
  if (!file.ok()) return file.status();
  const absl::StatusOr<std::vector<int32_t>> tokens =
      ReadTokens(flags.text, *file, options.windows, options.context);
  if (!tokens.ok()) return tokens.status();
  const absl::StatusOr<EvalModel> model =
      LoadModel(flags.common, *std::move(file), options.context);
  if (!model.ok()) return model.status();
  options.block_tokens = model->transformer->kv_cache().block_tokens;

  absl::StatusOr<std::vector<PerplexityResult>> results;
  {
    ProgressBar bar("scoring");
    const int64_t rows = PerplexityRows(options, static_cast<int>(policies->size()));
    results = EvalPerplexity(*model->transformer, *tokens, *policies, options, Advance(bar, rows));
  }
  if (!results.ok()) return results.status();
  if (flags.common.json) {
    PrintPerplexityJson(*results, *model, options);
  } else {
    PrintPerplexityTable(*results);
  }
  return absl::OkStatus();
}

int RunPerplexity(std::span<const std::string> arguments) {
  PerplexityFlags flags;
  FlagSet set(
      "winnow eval perplexity",
      "Scores the second half of each window of a text token by token through every policy; "
      "the first half is computed densely, as a prompt.");
  Declare(set, flags.common);
  set.Add("text", &flags.text, "FILE", "The text to score. Required.");
  set.Add("context", &flags.options.context, "TOKENS", "Tokens of a window.", {2, 1 << 24});
  set.Add("windows", &flags.options.windows, "K", "Consecutive windows from the text's start.",
          {1, 1 << 20});
  if (std::optional<int> exit_code = ParseOrExitCode(set, arguments)) return *exit_code;
  if (absl::Status status = EvaluatePerplexity(flags); !status.ok()) return Fail(set, status);
  return 0;
}

}  // namespace

int RunEval(std::span<const std::string> arguments) {
  constexpr const char* kUsage =
      "Measures what an attention policy costs in accuracy.\n\n"
      "Usage: winnow eval perplexity [flags]\n\n"
      "  perplexity  How well a text is predicted\n\n"
      "`winnow eval perplexity --help` shows the flags.\n";
  const std::string name = arguments.empty() ? "" : arguments[0];
  if (name == "perplexity") return RunPerplexity(arguments.subspan(1));
  const bool help = name == "--help" || name == "-h";
  std::fputs(kUsage, help ? stdout : stderr);
  return help ? 0 : 2;
}

}  // namespace winnow
