#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "engine/eval/perplexity.h"
#include "server/commands/eval_commands.h"
#include "server/commands/eval_support.h"
#include "server/commands/progress.h"

namespace winnow {
namespace {

struct PerplexityFlags {
  EvalFlags common;
  std::string text;
  PerplexityOptions options = {.step_rows = kEvalStepRows};
};

/// Perplexity of the dense policy, none if it was not evaluated.
std::optional<double> DensePerplexity(const std::vector<PerplexityResult>& results) {
  for (const PerplexityResult& result : results) {
    if (result.policy.kind == SelectionKind::kAll) return result.perplexity;
  }
  return std::nullopt;
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
  PrintJson(json);
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
  options.block_tokens = model->loaded.pools->block_tokens();

  absl::StatusOr<std::vector<PerplexityResult>> results;
  {
    ProgressBar bar("scoring");
    const int64_t rows = PerplexityRows(options, static_cast<int>(policies->size()));
    results = EvalPerplexity(model->transformer(), *tokens, *policies, options, Advance(bar, rows));
  }
  if (!results.ok()) return results.status();
  if (flags.common.json) {
    PrintPerplexityJson(*results, *model, options);
  } else {
    PrintPerplexityTable(*results);
  }
  return absl::OkStatus();
}

}  // namespace

int RunEvalPerplexity(std::span<const std::string> arguments) {
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

}  // namespace winnow
