#include <algorithm>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/eval/heat_map.h"
#include "engine/eval/recall.h"
#include "server/commands/eval_commands.h"
#include "server/commands/eval_support.h"
#include "server/commands/progress.h"

namespace winnow {
namespace {

struct RecallFlags {
  EvalFlags common;
  std::string text;
  std::string output;
  RecallEvalOptions options = {.step_rows = kEvalStepRows};
};

bool EndsWith(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

/// Writes the heat map as --output says: SVG by itself or in a page.
absl::Status WriteHeatMap(const RecallFlags& flags, const std::vector<RecallResult>& results,
                          const EvalModel& model) {
  std::vector<HeatMapPanel> panels;
  for (const RecallResult& result : results) panels.push_back({Title(result.policy), &result});
  const std::string caption = absl::StrCat(
      model.file.config().name, ", context ", flags.options.context,
      ", windows: ", flags.options.windows, ", rows sampled in each: ", flags.options.sampled_rows);
  std::string image = RecallHeatMapSvg(caption, panels);
  if (EndsWith(flags.output, ".html")) image = HtmlPage("Recall by layer and KV head", image);
  std::ofstream file(flags.output, std::ios::binary);
  file << image;
  file.close();
  if (!file) {
    return absl::UnavailableError(absl::StrCat("can't write --output ", flags.output));
  }
  return absl::OkStatus();
}

void PrintRecallJson(const std::vector<RecallResult>& results, const EvalModel& model,
                     const RecallEvalOptions& options) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const RecallResult& result : results) {
    nlohmann::ordered_json layers = nlohmann::ordered_json::array();
    for (int l = 0; l < result.layers(); ++l) {
      layers.push_back(std::vector<double>(result.layer(l).begin(), result.layer(l).end()));
    }
    nlohmann::ordered_json json = {{"policy", std::string(PolicyName(result.policy.kind))},
                                   {"recall", MeanRecall(result.recall)},
                                   {"mean_budget_fraction", BudgetFraction(result.traffic)}};
    AddPolicy(result.policy, model, &json);
    json["recall_by_layer_and_kv_head"] = std::move(layers);
    list.push_back(std::move(json));
  }
  const nlohmann::ordered_json json = {{"results", list},
                                       {"context", options.context},
                                       {"windows", options.windows},
                                       {"sampled_rows", options.sampled_rows}};
  PrintJson(json);
}

void PrintRecallTable(const std::vector<RecallResult>& results) {
  constexpr int kMinWidth = 16;
  std::vector<int> widths;
  std::printf("recall, mean and lowest KV head\nlayer");
  for (const RecallResult& result : results) {
    const std::string title = Title(result.policy);
    widths.push_back(std::max(kMinWidth, static_cast<int>(title.size())));
    std::printf("  %*s", widths.back(), title.c_str());
  }
  const auto print_row = [&](const std::string& name, const auto& recalls_of) {
    std::printf("\n%5s", name.c_str());
    for (size_t p = 0; p < results.size(); ++p) {
      const std::span<const double> recalls = recalls_of(results[p]);
      std::printf("  %*.4f  %.4f", widths[p] - 8, MeanRecall(recalls),
                  *std::ranges::min_element(recalls));
    }
  };
  for (int l = 0; l < results[0].layers(); ++l) {
    print_row(absl::StrCat(l), [l](const RecallResult& result) { return result.layer(l); });
  }
  print_row("all", [](const RecallResult& result) { return std::span(result.recall); });
  std::printf("\n");
}

absl::Status EvaluateRecall(const RecallFlags& flags) {
  RecallEvalOptions options = flags.options;
  if (!flags.output.empty() && !EndsWith(flags.output, ".html") &&
      !EndsWith(flags.output, ".svg")) {
    return absl::InvalidArgumentError(
        absl::StrCat("--output must end in .html or .svg, is ", flags.output));
  }
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

  absl::StatusOr<std::vector<RecallResult>> results;
  {
    ProgressBar bar("measuring");
    const int64_t rows = RecallRows(options, static_cast<int>(policies->size()));
    results = EvalRecall(model->transformer(), *tokens, *policies, options, Advance(bar, rows));
  }
  if (!results.ok()) return results.status();
  if (!flags.output.empty()) {
    if (absl::Status status = WriteHeatMap(flags, *results, *model); !status.ok()) return status;
  }
  if (flags.common.json) {
    PrintRecallJson(*results, *model, options);
  } else {
    PrintRecallTable(*results);
  }
  return absl::OkStatus();
}

}  // namespace

int RunEvalRecall(std::span<const std::string> arguments) {
  RecallFlags flags;
  FlagSet set("winnow eval recall",
              "Measures, for every layer and KV head, how much of the true softmax mass the tokens "
              "hold that each policy selects in the second half of windows of a text.");
  flags.common.policies = "double-sparsity,window";
  Declare(set, flags.common);
  set.Add("text", &flags.text, "FILE", "The text to attend to. Required.");
  set.Add("context", &flags.options.context, "TOKENS", "Tokens of a window.", {2, 1 << 24});
  set.Add("windows", &flags.options.windows, "K", "Consecutive windows from the text's start.",
          {1, 1 << 20});
  set.Add("sampled-rows", &flags.options.sampled_rows, "N",
          "Rows of a window at which recall is measured, evenly spread over its second half.",
          {1, 1 << 20});
  set.Add("output", &flags.output, "FILE", "Draw a heat map: FILE.html or FILE.svg.");
  if (std::optional<int> exit_code = ParseOrExitCode(set, arguments)) return *exit_code;
  if (absl::Status status = EvaluateRecall(flags); !status.ok()) return Fail(set, status);
  return 0;
}

}  // namespace winnow
