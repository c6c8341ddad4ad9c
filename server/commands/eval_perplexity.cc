#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "engine/eval/perplexity.h"
#include "engine/eval/prediction.h"
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

/// By how many percent the policy's perplexity exceeds dense attention's.
struct Increase {
  explicit Increase(const SampleMean& loss)
      : percent(100 * std::expm1(loss.mean())),
        standard_error(100 * std::exp(loss.mean()) * loss.standard_error()) {}

  double percent;
  double standard_error;
};

void AddComparison(const DenseComparison& comparison, nlohmann::ordered_json* json) {
  const Increase increase(comparison.loss);
  (*json)["perplexity_increase_percent"] = increase.percent;
  (*json)["perplexity_increase_percent_error"] = increase.standard_error;
  (*json)["divergence"] = comparison.divergence.mean();
  (*json)["divergence_error"] = comparison.divergence.standard_error();
  (*json)["top1_agreement"] = comparison.agreement.mean();
  (*json)["top1_agreement_error"] = comparison.agreement.standard_error();
}

void PrintPerplexityJson(const std::vector<PerplexityResult>& results, const EvalModel& model,
                         const PerplexityOptions& options) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const PerplexityResult& result : results) {
    nlohmann::ordered_json json = {{"policy", std::string(PolicyName(result.policy.kind))},
                                   {"perplexity", result.perplexity},
                                   {"mean_budget_fraction", BudgetFraction(result.traffic)},
                                   {"recall", result.recall},
                                   {"estimated", result.estimated},
                                   {"kv_bytes_read", result.traffic.bytes()},
                                   {"kv_bytes_dense", result.traffic.equivalent_bytes}};
    AddPolicy(result.policy, model, &json);
    if (result.from_dense) AddComparison(*result.from_dense, &json);
    json["scored_tokens"] = result.tokens;
    list.push_back(std::move(json));
  }
  const nlohmann::ordered_json json = {
      {"results", list}, {"context", options.context}, {"windows", options.windows}};
  PrintJson(json);
}

void PrintComparison(const std::optional<DenseComparison>& comparison) {
  if (!comparison) {
    std::printf(" %18s %18s %15s", "", "", "");
    return;
  }
  const Increase increase(comparison->loss);
  std::printf(" %+8.2f ± %5.2f %% %8.5f ± %7.5f %6.2f ± %4.2f %%", increase.percent,
              increase.standard_error, comparison->divergence.mean(),
              comparison->divergence.standard_error(), 100 * comparison->agreement.mean(),
              100 * comparison->agreement.standard_error());
}

void PrintPerplexityTable(const std::vector<PerplexityResult>& results) {
  std::printf("%-24s %10s %18s %18s %15s %8s %8s %9s %14s %8s\n", "policy", "perplexity",
              "vs dense", "divergence", "top-1 as dense", "budget", "recall", "estimated",
              "KV read", "of dense");
  for (const PerplexityResult& result : results) {
    const KvTraffic& traffic = result.traffic;
    std::printf("%-24s %10.3f", Title(result.policy).c_str(), result.perplexity);
    PrintComparison(result.from_dense);
    std::printf(" %6.2f %% %8.4f %9.4f %11.3f MB %6.2f %%\n", 100 * BudgetFraction(traffic),
                result.recall, result.estimated,
                static_cast<double>(traffic.bytes()) / static_cast<double>(result.tokens) / 1e6,
                100 * ReadFraction(traffic));
  }
  std::printf(
      "%lld tokens scored by each policy; recall and estimated are shares of attention, those of "
      "what was chosen and of the estimate of the rest; KV read is per token, labels and summaries "
      "included; divergence is "
      "KL(dense || policy) in nats; ± one standard error, tokens taken for independent\n",
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
