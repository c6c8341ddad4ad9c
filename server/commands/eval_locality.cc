#include <cstdint>
#include <cstdio>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/eval/locality.h"
#include "server/commands/eval_commands.h"
#include "server/commands/eval_support.h"
#include "server/commands/progress.h"

namespace winnow {
namespace {

struct LocalityFlags {
  EvalFlags common;
  std::string text;
  LocalityOptions options = {.step_rows = kEvalStepRows};
};

// A share of the selected rows.
struct Figure {
  std::string name;
  std::function<int64_t(const LocalityCounts&)> part;
  int64_t LocalityCounts::*whole = &LocalityCounts::rows;

  double Of(const LocalityCounts& counts) const {
    return static_cast<double>(part(counts)) / static_cast<double>(counts.*whole);
  }
  // Of heads that select nothing, or can't be predicted, there is nothing to say.
  bool IsKnown(const LocalityCounts& counts) const { return counts.*whole > 0; }
};

std::vector<Figure> Figures() {
  std::vector<Figure> figures = {
      {"the step before had", [](const LocalityCounts& c) { return c.overlap; }}};
  for (size_t i = 0; i < kCacheSizes.size(); ++i) {
    figures.push_back({absl::StrCat("LRU cache of ", kCacheSizes[i], " x"),
                       [i](const LocalityCounts& c) { return c.lru_hits[i]; }});
  }
  figures.push_back({absl::StrCat("best cache of ", kBestCacheSize, " x"),
                     [](const LocalityCounts& c) { return c.best_hits; }});
  for (size_t i = 0; i < kPrefetchSizes.size(); ++i) {
    figures.push_back({absl::StrCat("own matrix, prefetch ", kPrefetchSizes[i], " x"),
                       [i](const LocalityCounts& c) { return c.own_hits[i]; },
                       &LocalityCounts::predictable_rows});
  }
  for (size_t i = 0; i < kPrefetchSizes.size(); ++i) {
    figures.push_back({absl::StrCat("fitted map, prefetch ", kPrefetchSizes[i], " x"),
                       [i](const LocalityCounts& c) { return c.fitted_hits[i]; },
                       &LocalityCounts::predictable_rows});
  }
  return figures;
}

// The least of a figure, and what it is of.
class Worst {
 public:
  void Add(double share, std::string name) {
    if (share >= share_) return;
    share_ = share;
    name_ = std::move(name);
  }
  std::string Text() const { return absl::StrFormat("%5.1f (%s)", 100 * share_, name_); }

 private:
  double share_ = 2;
  std::string name_;
};

void PrintFigure(const Figure& figure, const LocalityResult& result) {
  Worst layer;
  Worst head;
  for (int l = 0; l < result.layers(); ++l) {
    const LocalityCounts of_layer = result.Layer(l);
    if (!figure.IsKnown(of_layer)) continue;
    layer.Add(figure.Of(of_layer), absl::StrCat(l));
    for (int g = 0; g < result.kv_heads; ++g) {
      const LocalityCounts& of_head = result.head(l, g);
      if (figure.IsKnown(of_head)) head.Add(figure.Of(of_head), absl::StrCat(l, ", ", g));
    }
  }
  std::printf("%-27s %6.1f  %12s  %15s\n", figure.name.c_str(), 100 * figure.Of(result.Total()),
              layer.Text().c_str(), head.Text().c_str());
}

double RowsPerStep(const LocalityCounts& counts, const LocalityOptions& options) {
  return static_cast<double>(counts.rows) / static_cast<double>(counts.heads) / options.steps;
}

void PrintTable(const LocalityResult& result, const LocalityOptions& options) {
  const LocalityCounts total = result.Total();
  std::printf(
      "rows that a KV head selects in a step beside sinks and window: %.1f\n"
      "share of them in %%, sizes as multiples of them\n\n"
      "%-27s %6s  %12s  %15s\n",
      RowsPerStep(total, options), "", "all", "worst layer", "worst head");
  for (const Figure& figure : Figures()) {
    if (figure.IsKnown(total)) PrintFigure(figure, result);
  }
  std::printf("\nlast selected so many steps before, %% of rows\n");
  int64_t first = 1;
  for (size_t i = 0; i < total.ages.by_age.size(); ++i) {
    const int64_t last = int64_t{1} << i;
    const std::string ages = first == last ? absl::StrCat(last) : absl::StrCat(first, "-", last);
    std::printf("%9s %6.2f\n", ages.c_str(),
                100 * static_cast<double>(total.ages.by_age[i]) / static_cast<double>(total.rows));
    first = last + 1;
  }
  std::printf("%9s %6.2f\n", "never",
              100 * static_cast<double>(total.ages.never) / static_cast<double>(total.rows));
}

template <typename Counts>
std::vector<double> Shares(const Counts& counts, int64_t of) {
  std::vector<double> shares;
  for (const int64_t count : counts) {
    shares.push_back(static_cast<double>(count) / static_cast<double>(of));
  }
  return shares;
}

nlohmann::ordered_json ToJson(const LocalityCounts& counts, const LocalityOptions& options) {
  if (counts.rows == 0) return {{"rows_per_step", 0}};
  const auto share = [&](int64_t count) {
    return static_cast<double>(count) / static_cast<double>(counts.rows);
  };
  nlohmann::ordered_json json = {
      {"rows_per_step", RowsPerStep(counts, options)},    {"overlap", share(counts.overlap)},
      {"lru_hits", Shares(counts.lru_hits, counts.rows)}, {"best_hits", share(counts.best_hits)},
      {"ages", Shares(counts.ages.by_age, counts.rows)},  {"never", share(counts.ages.never)}};
  if (counts.predictable_rows > 0) {
    json["own_matrix_recall"] = Shares(counts.own_hits, counts.predictable_rows);
    json["fitted_map_recall"] = Shares(counts.fitted_hits, counts.predictable_rows);
  }
  return json;
}

void PrintLocalityJson(const LocalityResult& result, const AttentionPolicy& policy,
                       const EvalModel& model, const LocalityFlags& flags) {
  const LocalityOptions& options = flags.options;
  nlohmann::ordered_json layers = nlohmann::ordered_json::array();
  for (int l = 0; l < result.layers(); ++l) {
    nlohmann::ordered_json layer = ToJson(result.Layer(l), options);
    layer["kv_heads"] = nlohmann::ordered_json::array();
    for (int g = 0; g < result.kv_heads; ++g) {
      layer["kv_heads"].push_back(ToJson(result.head(l, g), options));
    }
    layers.push_back(std::move(layer));
  }
  std::vector<int64_t> age_ends;
  const LocalityCounts total = result.Total();
  for (size_t i = 0; i < total.ages.by_age.size(); ++i) age_ends.push_back(int64_t{1} << i);
  nlohmann::ordered_json json = {{"model", model.file.config().name},
                                 {"policy", std::string(PolicyName(policy.kind))}};
  AddPolicy(policy, model, &json);
  json["sinks"] = flags.common.selection.sinks;
  json["window"] = flags.common.selection.window;
  json["context"] = options.context;
  json["steps"] = options.steps;
  json["warm_up"] = options.warm_up;
  json["cache_sizes"] = kCacheSizes;
  json["best_cache_size"] = kBestCacheSize;
  json["prefetch_sizes"] = kPrefetchSizes;
  json["age_ends"] = age_ends;
  json["total"] = ToJson(total, options);
  json["layers"] = std::move(layers);
  PrintJson(json);
}

absl::StatusOr<AttentionPolicy> ReadPolicy(const EvalFlags& flags) {
  const absl::StatusOr<std::vector<AttentionPolicy>> policies = ReadPolicies(flags);
  if (!policies.ok()) return policies.status();
  if (policies->size() != 1 || policies->front().kind != SelectionKind::kLabels) {
    return absl::InvalidArgumentError(
        absl::StrCat("--policies must be double-sparsity, at one --sparsity, not ", flags.policies,
                     " at ", flags.sparsity));
  }
  return policies->front();
}

absl::Status EvaluateLocality(LocalityFlags& flags) {
  LocalityOptions& options = flags.options;
  if (options.context <= options.steps + options.warm_up) {
    return absl::InvalidArgumentError(
        absl::StrCat("--context must be more than --steps ", options.steps, " and --warm-up ",
                     options.warm_up, " together, is ", options.context));
  }
  const absl::StatusOr<AttentionPolicy> policy = ReadPolicy(flags.common);
  if (!policy.ok()) return policy.status();
  absl::StatusOr<ModelFile> file = OpenModel(flags.common);
  if (!file.ok()) return file.status();
  const absl::StatusOr<std::vector<int32_t>> tokens =
      ReadTokens(flags.text, *file, /*windows=*/1, options.context);
  if (!tokens.ok()) return tokens.status();
  const absl::StatusOr<LabelFile> labels =
      LabelFile::Read(flags.common.label_file, *file->checkpoint);
  if (!labels.ok()) return labels.status();
  const absl::StatusOr<EvalModel> model =
      LoadModel(flags.common, *std::move(file), options.context);
  if (!model.ok()) return model.status();
  options.block_tokens = model->loaded.pools->block_tokens();
  options.selection = SelectionOf(*policy);

  absl::StatusOr<LocalityResult> result;
  {
    ProgressBar bar("measuring");
    result = EvalLocality({.transformer = model->transformer(),
                           .backend = *model->loaded.backend,
                           .weights = model->file.checkpoint->weights(),
                           .labels = *labels,
                           .selection = ReadSelection(flags.common)},
                          *tokens, options, Advance(bar, options.context));
  }
  if (!result.ok()) return result.status();
  if (result->Total().rows == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("nothing is selected of a --context of ", options.context,
                     " tokens: budgets hold all of it, or nothing beside sinks and window"));
  }
  if (flags.common.json) {
    PrintLocalityJson(*result, *policy, *model, flags);
  } else {
    PrintTable(*result, options);
  }
  return absl::OkStatus();
}

}  // namespace

int RunEvalLocality(std::span<const std::string> arguments) {
  LocalityFlags flags;
  FlagSet set("winnow eval locality",
              "Measures, while a text is decoded, how many of the tokens that KV heads select were "
              "selected shortly before, what caches of their keys and values would hit, and how "
              "many can be foreseen a layer ahead.");
  flags.common.policies = "double-sparsity";
  Declare(set, flags.common);
  set.Add("text", &flags.text, "FILE", "The text to decode. Required.");
  set.Add("context", &flags.options.context, "TOKENS", "Tokens of the text that are computed.",
          {4, 1 << 24});
  set.Add("steps", &flags.options.steps, "N", "Last of them, which are decoded and counted.",
          {1, 1 << 20});
  set.Add("warm-up", &flags.options.warm_up, "N",
          "Tokens in front of those, which are decoded and fill caches.", {1, 1 << 20});
  if (std::optional<int> exit_code = ParseOrExitCode(set, arguments)) return *exit_code;
  if (absl::Status status = EvaluateLocality(flags); !status.ok()) return Fail(set, status);
  return 0;
}

}  // namespace winnow
