#include "engine/calibration/selection_error.h"

#include <Eigen/Core>
#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>

#include "engine/calibration/row_matrix.h"
#include "engine/calibration/running_summary.h"
#include "engine/calibration/selection_trial.h"
#include "kernels/float16.h"
#include "kernels/summary.h"

namespace winnow {
namespace {

constexpr float kTopCode = 15;  // of 4 bits
// exp of it is a number, and so is the product with a mass.
constexpr double kMaxLogMass = 600;

// One head's rows of `halves` [kv_heads, tokens, d], widened.
RowMatrix Widened(const std::vector<uint16_t>& halves, int head, int tokens, int d) {
  RowMatrix rows(tokens, d);
  const auto begin = halves.begin() + int64_t{head} * tokens * d;
  std::transform(begin, begin + rows.size(), rows.data(), HalfToFloat);
  return rows;
}

// How much of a label one step of its code is, [width].
Eigen::RowVectorXf Steps(const LabelRanges& ranges) {
  Eigen::RowVectorXf steps(static_cast<Eigen::Index>(ranges.low.size()));
  for (Eigen::Index j = 0; j < steps.size(); ++j) {
    steps[j] = (ranges.high[j] - ranges.low[j]) / kTopCode;
  }
  return steps;
}

// Replaces labels by their 4-bit codes.
void Quantise(const LabelRanges& ranges, RowMatrix& labels) {
  const Eigen::RowVectorXf steps = Steps(ranges);
  for (Eigen::Index j = 0; j < labels.cols(); ++j) {
    labels.col(j) =
        ((labels.col(j).array() - ranges.low[j]) / steps[j]).round().max(0).min(kTopCode);
  }
}

// Turns the first `count` scores of a row into their softmax, and the rest into zeros; returns the
// log of the sum of their exponentials.
template <typename Row>
float Softmax(Row row, int count) {
  auto past = row.head(count).array();
  const float max = past.maxCoeff();
  past = (past - max).exp();
  const float sum = past.sum();
  past /= sum;
  row.tail(row.size() - count).setZero();
  return max + std::log(sum);
}

// One KV head in one measured window: what its group's queries ask of which tokens.
struct HeadWindow {
  HeadWindow(const CalibrationStatistics& statistics, const CalibrationStatistics::Window& window,
             int layer, int kv_head, const LabelBasis& basis, const LabelRanges& ranges);

  RowMatrix keys;         // [tokens, d]
  RowMatrix values;       // [tokens, d]
  RowMatrix codes;        // [tokens, width]
  RowMatrix queries;      // [positions group, d] times the scale: with keys, scores
  RowMatrix by_codes;     // [positions group, width] with codes, approximate scores but for a
                          // number that all tokens share
  RowMatrix exact;        // [positions group, tokens] softmax of the scores
  RowMatrix approximate;  // [positions group, tokens] of the approximate ones
  Eigen::VectorXf exact_log_sum;        // [positions group] of the scores' exponentials
  Eigen::VectorXf approximate_log_sum;  // [positions group]
  RowMatrix dense;                      // [positions group, d] attention to all
};

HeadWindow::HeadWindow(const CalibrationStatistics& statistics,
                       const CalibrationStatistics::Window& window, int layer, int kv_head,
                       const LabelBasis& basis, const LabelRanges& ranges) {
  const CalibrationStatistics::Window::Layer& kept = window.layers[layer];
  const int d = statistics.head_dim;
  const int group = statistics.group_heads();
  const auto positions = static_cast<int>(window.query_positions.size());
  const Eigen::Map<const RowMatrix> a(basis.query.data(), d, basis.width);
  const Eigen::Map<const RowMatrix> b(basis.key.data(), d, basis.width);
  keys = Widened(kept.keys, kv_head, window.tokens, d);
  values = Widened(kept.values, kv_head, window.tokens, d);
  codes = keys * b;
  Quantise(ranges, codes);
  queries.resize(int64_t{positions} * group, d);
  for (int p = 0; p < positions; ++p) {
    const float* row =
        kept.queries.data() + (int64_t{p} * statistics.heads + int64_t{kv_head} * group) * d;
    std::copy(row, row + int64_t{group} * d, queries.row(int64_t{p} * group).data());
  }
  queries *= ScoreScale(statistics.attention, d);
  by_codes = queries * a * Steps(ranges).asDiagonal();
  exact = queries * keys.transpose();
  const float cap = statistics.attention.soft_cap;
  if (cap > 0) exact = cap * (exact / cap).array().tanh();
  approximate = by_codes * codes.transpose();
  exact_log_sum.resize(exact.rows());
  approximate_log_sum.resize(exact.rows());
  for (int i = 0; i < exact.rows(); ++i) {
    const int count = window.query_positions[i / group] + 1;
    exact_log_sum[i] = Softmax(exact.row(i), count);
    approximate_log_sum[i] = Softmax(approximate.row(i), count);
  }
  dense = exact * values;
}

// What the queries of a position select by, of the `count` tokens that they see.
Eigen::RowVectorXf Telling(const RowMatrix& approximate, int64_t first, int group, int count,
                           const ForcedTokens& forced) {
  constexpr float kAlways = std::numeric_limits<float>::infinity();
  Eigen::RowVectorXf telling = approximate.block(first, 0, group, count).colwise().sum();
  telling.head(std::min(forced.sinks, count)).setConstant(kAlways);
  telling.tail(std::min(forced.window, count)).setConstant(kAlways);
  return telling;
}

// The tokens of each fraction of a context.
std::vector<int> Budgets(int count, const ForcedTokens& forced) {
  std::vector<int> budgets;
  for (const double fraction : BudgetFractions()) {
    const int budget = static_cast<int>(std::ceil(fraction * count));
    budgets.push_back(std::min(count, std::max(budget, forced.sinks + forced.window)));
  }
  return budgets;
}

// What becomes of a group's outputs at one position, at each budget: their change, if the tail is
// left out, and of each query head's the turn towards the tail's value. A tail that has the share s
// of a head's softmax adds s times the turn to the change.
struct Changes {
  int rows = 1;                 // of a budget: the change, then the turns of the heads
  RowMatrix directions;         // [budgets rows, group d]
  RowMatrix masses;             // [budgets, group] of what is chosen, of the whole exact one
  Eigen::MatrixXd tail_masses;  // [budgets, group] of the tail with weight 1, in the same units

  // The square of what W makes of the change at each of the tail weights, W^T W = gram:
  // adds `share` of it to errors [tail_weights][budgets].
  void AddErrors(const Eigen::Map<const RowMatrix>& gram, std::span<const double> tail_weights,
                 double share, std::vector<std::vector<double>>& errors) const;
};

void Changes::AddErrors(const Eigen::Map<const RowMatrix>& gram,
                        std::span<const double> tail_weights, double share,
                        std::vector<std::vector<double>>& errors) const {
  const RowMatrix moved = directions * gram;
  Eigen::VectorXd way = Eigen::VectorXd::Ones(rows);
  for (Eigen::Index level = 0; level < masses.rows(); ++level) {
    const Eigen::MatrixXd products = (moved.middleRows(level * rows, rows) *
                                      directions.middleRows(level * rows, rows).transpose())
                                         .eval()
                                         .cast<double>();
    for (size_t i = 0; i < tail_weights.size(); ++i) {
      for (int h = 0; h + 1 < rows; ++h) {
        const double tail = tail_weights[i] * tail_masses(level, h);
        way[h + 1] = tail > 0 ? tail / (tail + masses(level, h)) : 0;
      }
      errors[i][level] += share * way.dot(products * way);
    }
  }
}

// The changes at the queries from `first` on, without a summary or with it.
Changes TryPosition(const HeadWindow& head, int64_t first, int group, const SelectionTrial& trial,
                    const RunningSummary::Estimate* summary) {
  const Eigen::Index d = head.values.cols();
  const Eigen::Index width = head.codes.cols();
  SelectionTrial::Chosen chosen = trial.Choose(head.exact.middleRows(first, group), head.values);
  Changes changes;
  changes.masses = std::move(chosen.masses);
  const Eigen::Index levels = changes.masses.rows();
  changes.rows = summary != nullptr ? 1 + group : 1;
  changes.directions.setZero(levels * changes.rows, group * d);
  for (Eigen::Index level = 0; level < levels; ++level) {
    auto change = changes.directions.row(level * changes.rows);
    change = chosen.outputs.row(level);
    for (int h = 0; h < group; ++h) change.segment(h * d, d) -= head.dense.row(first + h);
  }
  if (summary == nullptr) return changes;

  const SelectionTrial::Rest rest =
      trial.LeaveOut(head.approximate.middleRows(first, group), head.codes);
  changes.tail_masses = rest.masses.cast<double>();
  for (int h = 0; h < group; ++h) {
    const Eigen::Index row = first + h;
    // Of e = exp(approximate score - that of the mean label + that of the mean key), in units of
    // the sum of exact exponentials.
    const double log_mass = double{head.approximate_log_sum[row]} -
                            head.by_codes.row(row).dot(summary->mean_code) +
                            head.queries.row(row).dot(summary->mean_key) - head.exact_log_sum[row];
    changes.tail_masses.col(h) *= std::exp(std::min(log_mass, kMaxLogMass));
    const RowMatrix codes = rest.codes.middleCols(h * width, width).rowwise() - summary->mean_code;
    const RowMatrix values = (codes * summary->slopes).rowwise() + summary->mean_value;
    for (Eigen::Index level = 0; level < levels; ++level) {
      changes.directions.row(level * changes.rows + 1 + h).segment(h * d, d) =
          values.row(level) - chosen.outputs.row(level).segment(h * d, d);
    }
  }
  return changes;
}

}  // namespace

const std::vector<double>& BudgetFractions() {
  static const std::vector<double> fractions = [] {
    std::vector<double> list;
    for (int i = 0; i <= 16; ++i) list.push_back(std::exp2(-6 + i / 4.0));
    return list;
  }();
  return fractions;
}

std::vector<std::vector<double>> MeasureSelectionErrors(
    const CalibrationStatistics& statistics, int layer, int kv_head, const LabelBasis& basis,
    const LabelRanges& ranges, const ForcedTokens& forced, std::span<const double> tail_weights) {
  const bool has_tail =
      std::any_of(tail_weights.begin(), tail_weights.end(), [](double w) { return w > 0; });
  assert(!has_tail || statistics.attention.soft_cap == 0);
  const int group = statistics.group_heads();
  const int columns = group * statistics.head_dim;
  const Eigen::Map<const RowMatrix> gram(statistics.head(layer, kv_head).output_gram.data(),
                                         columns, columns);
  std::vector<std::vector<double>> errors(tail_weights.size(),
                                          std::vector<double>(BudgetFractions().size()));
  for (const CalibrationStatistics::Window& window : statistics.windows) {
    const HeadWindow head(statistics, window, layer, kv_head, basis, ranges);
    RunningSummary summary(head.codes, head.keys, head.values, forced.sinks);
    // A stream of zeros, as only a made-up model has, counts as one of ones.
    const double energy = window.layers[layer].residual_energy;
    const double queries = static_cast<double>(window.query_positions.size()) *
                           static_cast<double>(statistics.windows.size());
    const double share = 1 / ((energy > 0 ? energy : 1) * queries);
    int64_t first = 0;
    for (const int position : window.query_positions) {
      const int count = position + 1;
      const Eigen::RowVectorXf telling = Telling(head.approximate, first, group, count, forced);
      const std::vector<int> budgets = Budgets(count, forced);
      const SelectionTrial trial({telling.data(), static_cast<size_t>(count)}, budgets);
      const bool summarised = has_tail && HasSummary(position, forced.sinks);
      TryPosition(head, first, group, trial, summarised ? &summary.At(position) : nullptr)
          .AddErrors(gram, tail_weights, share, errors);
      first += group;
    }
  }
  return errors;
}

}  // namespace winnow
