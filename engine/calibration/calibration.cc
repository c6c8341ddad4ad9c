#include "engine/calibration/calibration.h"

#include <algorithm>
#include <mutex>
#include <numeric>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/calibration/budget_spread.h"
#include "engine/calibration/label_basis.h"
#include "engine/calibration/parallel.h"
#include "engine/calibration/tail_weight.h"

namespace winnow {
namespace {

LabelBasis MakeBasis(const CalibrationStatistics& statistics, const CalibrationOptions& options,
                     int group) {
  const CalibrationStatistics::Head& head = statistics.groups[group];
  if (options.basis == "projection") {
    LabelBasis basis =
        ProjectionBasis(head.query_moment, head.key_covariance, statistics.head_dim, options.width);
    RoundToHalf(basis);
    return basis;
  }
  if (options.imported != nullptr) return ChannelBasis((*options.imported)[group], options.width);
  return ChannelBasis(RankChannels(head, options.ranking), options.width);
}

// The KV heads of all layers that select, as places in CalibrationStatistics::groups.
std::vector<int> SelectingGroups(const CalibrationStatistics& statistics) {
  std::vector<int> groups;
  for (int layer = 0; layer < statistics.layers; ++layer) {
    for (int g = 0; statistics.selects(layer) && g < statistics.kv_heads; ++g) {
      groups.push_back(layer * statistics.kv_heads + g);
    }
  }
  return groups;
}

void Append(const std::vector<float>& from, std::vector<float>& to) {
  to.insert(to.end(), from.begin(), from.end());
}

// A curve of MeasureSelectionErrors for each tail weight of one head.
using HeadErrors = std::vector<std::vector<double>>;

// The least of a head's errors at each of BudgetFractions().
std::vector<double> LeastErrors(const HeadErrors& errors) {
  std::vector<double> least = errors.front();
  for (const std::vector<double>& curve : errors) {
    for (size_t i = 0; i < least.size(); ++i) least[i] = std::min(least[i], curve[i]);
  }
  return least;
}

// Spreads the total over the heads of `groups` by the errors that are left once what is not chosen
// counts as much as it should, and notes what that saves.
void SetBudgets(std::span<const int> groups, const std::vector<HeadErrors>& errors, double sparsity,
                CalibrationResult& result) {
  const std::vector<double>& fractions = BudgetFractions();
  std::vector<std::vector<double>> least;
  for (const HeadErrors& head : errors) least.push_back(LeastErrors(head));
  const std::vector<double> shares = SpreadBudget(least, fractions, 1 / sparsity);
  result.file.budget_sparsity = sparsity;
  for (size_t i = 0; i < shares.size(); ++i) {
    result.file.budget_weights[groups[i]] = static_cast<float>(shares[i] * sparsity);
    result.uniform_error += ErrorAt(least[i], fractions, 1 / sparsity);
    result.spread_error += ErrorAt(least[i], fractions, shares[i]);
    result.left_out_error += ErrorAt(errors[i].front(), fractions, shares[i]);
  }
}

// Chooses for each head of `groups`, with the budget that it has been given, how much what it does
// not choose counts. Other heads choose everything: 0.
void SetTailWeights(std::span<const int> groups, const std::vector<HeadErrors>& errors,
                    LabelFile& file) {
  file.tail_weights.assign(file.budget_weights.size(), 0);
  for (size_t i = 0; i < groups.size(); ++i) {
    const double share = file.budget_weights[groups[i]] / file.budget_sparsity;
    std::vector<double> at_share;
    for (const std::vector<double>& curve : errors[i]) {
      at_share.push_back(ErrorAt(curve, BudgetFractions(), share));
    }
    file.tail_weights[groups[i]] =
        static_cast<float>(kTailCaution * WeightOfLeastError(at_share, TailWeightGrid()));
  }
}

}  // namespace

absl::Status CheckCalibrationOptions(const CalibrationOptions& options, int head_dim) {
  const int widest = std::min(kMaxLabelWidth, head_dim);
  if (options.width < 1 || options.width > widest || options.width % kLabelWidthMultiple != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the label width ", options.width, " is not a multiple of ", kLabelWidthMultiple,
        " of at most ", widest, " (the model's head size is ", head_dim, ")"));
  }
  if (options.basis != "projection" && options.basis != "channels") {
    return absl::InvalidArgumentError("the basis " + options.basis +
                                      " is neither projection nor channels");
  }
  const std::string rankings[] = {"qk-centred", "qk", "q", "k"};
  if (std::find(std::begin(rankings), std::end(rankings), options.ranking) == std::end(rankings)) {
    return absl::InvalidArgumentError("the ranking " + options.ranking +
                                      " is none of qk-centred, qk, q, k");
  }
  if (!(options.sparsity >= 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the sparsity ", options.sparsity, " is less than 1"));
  }
  return absl::OkStatus();
}

absl::StatusOr<CalibrationResult> MakeLabelFile(const CalibrationStatistics& statistics,
                                                const CalibrationOptions& options,
                                                const CalibrationProgress& progress) {
  if (absl::Status status = CheckCalibrationOptions(options, statistics.head_dim); !status.ok()) {
    return status;
  }
  if (options.budgets_by_head && statistics.windows.empty()) {
    return absl::FailedPreconditionError("budgets by head need windows to measure them on");
  }
  const std::vector<int> groups = SelectingGroups(statistics);
  std::vector<LabelBasis> bases(groups.size());
  std::vector<LabelRanges> ranges(groups.size());
  std::vector<HeadErrors> errors(groups.size());
  const bool has_tail =
      options.budgets_by_head && options.tail && statistics.attention.soft_cap == 0;
  const std::vector<double> tail_weights = has_tail ? TailWeightGrid() : std::vector<double>{0};
  std::mutex mutex;
  int done = 0;  // guarded by mutex
  ParallelFor(static_cast<int>(groups.size()), options.threads, [&](int i) {
    const int group = groups[i];
    bases[i] = MakeBasis(statistics, options, group);
    ranges[i] = QuantileRanges(bases[i], statistics.groups[group].keys);
    if (options.budgets_by_head) {
      errors[i] = MeasureSelectionErrors(statistics, group / statistics.kv_heads,
                                         group % statistics.kv_heads, bases[i], ranges[i],
                                         options.forced, tail_weights);
    }
    const std::lock_guard<std::mutex> lock(mutex);
    ++done;
    if (progress) progress(static_cast<double>(done) / static_cast<double>(groups.size()));
  });

  CalibrationResult result;
  LabelFile& file = result.file;
  file.architecture = statistics.architecture;
  file.model_name = statistics.model_name;
  file.model_fingerprint = statistics.model_fingerprint;
  file.kv_heads = statistics.kv_heads;
  file.head_dim = statistics.head_dim;
  file.width = options.width;
  file.basis = options.basis;
  if (options.basis == "channels") {
    file.ranking = options.imported != nullptr ? "imported" : options.ranking;
  }
  file.calibrated_context = statistics.window_tokens;
  file.layers.resize(statistics.layers);
  for (size_t i = 0; i < groups.size(); ++i) {
    LabelFile::Layer& layer = file.layers[groups[i] / statistics.kv_heads];
    Append(bases[i].query, layer.query);
    Append(bases[i].key, layer.key);
    Append(ranges[i].low, layer.low);
    Append(ranges[i].high, layer.high);
  }
  file.budget_weights.assign(statistics.groups.size(), 1);
  if (options.budgets_by_head) {
    SetBudgets(groups, errors, options.sparsity, result);
    if (has_tail) SetTailWeights(groups, errors, result.file);
  }
  return result;
}

absl::StatusOr<std::vector<std::vector<int32_t>>> CutWindows(std::span<const int32_t> text,
                                                             std::span<const int32_t> prefix,
                                                             int windows, int window_tokens) {
  const int64_t piece = window_tokens - static_cast<int64_t>(prefix.size());
  const auto available = static_cast<int64_t>(text.size());
  const int64_t needed = piece * windows;
  if (piece < 1 || needed > available) {
    return absl::InvalidArgumentError(absl::StrCat("the text has ", available, " tokens; ", windows,
                                                   " windows of ", window_tokens, " need ",
                                                   std::max<int64_t>(needed, 1)));
  }
  std::vector<std::vector<int32_t>> cut;
  for (int64_t i = 0; i < windows; ++i) {
    const int64_t begin = windows == 1 ? 0 : i * (available - piece) / (windows - 1);
    std::vector<int32_t> window(prefix.begin(), prefix.end());
    window.insert(window.end(), text.begin() + begin, text.begin() + begin + piece);
    cut.push_back(std::move(window));
  }
  return cut;
}

}  // namespace winnow
