#include "engine/calibration/selection_error.h"

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <span>

#include "kernels/float16.h"

namespace winnow {
namespace {

using RowMatrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

constexpr float kTopCode = 15;  // of 4 bits

// One head's rows of `halves` [kv_heads, tokens, d], widened.
RowMatrix Widened(const std::vector<uint16_t>& halves, int head, int tokens, int d) {
  RowMatrix rows(tokens, d);
  const auto begin = halves.begin() + int64_t{head} * tokens * d;
  std::transform(begin, begin + rows.size(), rows.data(), HalfToFloat);
  return rows;
}

// Replaces labels by what their 4-bit codes stand for.
void Quantise(const LabelRanges& ranges, RowMatrix& labels) {
  for (Eigen::Index j = 0; j < labels.cols(); ++j) {
    const float low = ranges.low[j];
    const float step = (ranges.high[j] - low) / kTopCode;
    labels.col(j) =
        ((labels.col(j).array() - low) / step).round().max(0).min(kTopCode) * step + low;
  }
}

// Turns the first `count` scores of a row into exp(score - max), and the rest into zeros; returns
// their sum.
template <typename Row>
float Exponentiate(Row row, int count) {
  auto past = row.head(count).array();
  past = (past - past.maxCoeff()).exp();
  row.tail(row.size() - count).setZero();
  return past.sum();
}

// Tries the selections of one query position.
class Trial {
 public:
  Trial(const RowMatrix& values, std::span<const int> budgets)
      : values_(values), budgets_(budgets) {}

  // Writes the group's outputs, one after another, at each budget to the rows of `outputs`.
  // `weights` [group, tokens] are the exponentials of the exact scores, `telling` [count] what to
  // select by. REQUIRES: budgets ascend and do not exceed `count`.
  template <typename Weights>
  void Run(const Weights& weights, std::span<const float> telling, RowMatrix& outputs) {
    Partition(telling);
    const Eigen::Index group = weights.rows();
    const Eigen::Index d = values_.cols();
    RowMatrix sum = RowMatrix::Zero(group, d);
    Eigen::VectorXf mass = Eigen::VectorXf::Zero(group);
    int taken = 0;
    for (size_t level = 0; level < budgets_.size(); ++level) {
      for (; taken < budgets_[level]; ++taken) {
        const int t = order_[taken];
        for (Eigen::Index h = 0; h < group; ++h) sum.row(h) += weights(h, t) * values_.row(t);
        mass += weights.col(t);
      }
      for (Eigen::Index h = 0; h < group; ++h) {
        outputs.row(static_cast<Eigen::Index>(level)).segment(h * d, d) = sum.row(h) / mass[h];
      }
    }
  }

 private:
  // Orders tokens so that the first budgets_[i] are the best that many, for each i.
  void Partition(std::span<const float> telling) {
    order_.resize(telling.size());
    std::iota(order_.begin(), order_.end(), 0);
    auto end = order_.end();
    for (auto budget = budgets_.rbegin(); budget != budgets_.rend(); ++budget) {
      const auto middle = order_.begin() + *budget;
      if (middle < end) {
        std::nth_element(order_.begin(), middle, end, [&](int a, int b) {
          return telling[a] != telling[b] ? telling[a] > telling[b] : a < b;
        });
      }
      end = middle;
    }
  }

  const RowMatrix& values_;
  std::span<const int> budgets_;
  std::vector<int> order_;
};

}  // namespace

const std::vector<double>& BudgetFractions() {
  static const std::vector<double> fractions = [] {
    std::vector<double> list;
    for (int i = 0; i <= 16; ++i) list.push_back(std::exp2(-6 + i / 4.0));
    return list;
  }();
  return fractions;
}

std::vector<double> MeasureSelectionErrors(const CalibrationStatistics& statistics, int layer,
                                           int kv_head, const LabelBasis& basis,
                                           const LabelRanges& ranges, const ForcedTokens& forced) {
  const int d = statistics.head_dim;
  const int group = statistics.group_heads();
  const float scale = ScoreScale(statistics.attention, d);
  const float cap = statistics.attention.soft_cap;
  const Eigen::Map<const RowMatrix> a(basis.query.data(), d, basis.width);
  const Eigen::Map<const RowMatrix> b(basis.key.data(), d, basis.width);
  const Eigen::Map<const RowMatrix> gram(statistics.head(layer, kv_head).output_gram.data(),
                                         int64_t{group} * d, int64_t{group} * d);
  const std::vector<double>& fractions = BudgetFractions();
  const size_t levels = fractions.size();
  std::vector<double> errors(levels);

  for (const CalibrationStatistics::Window& window : statistics.windows) {
    const CalibrationStatistics::Window::Layer& kept = window.layers[layer];
    const int tokens = window.tokens;
    const auto positions = static_cast<int>(window.query_positions.size());
    const RowMatrix keys = Widened(kept.keys, kv_head, tokens, d);
    const RowMatrix values = Widened(kept.values, kv_head, tokens, d);
    RowMatrix labels = keys * b;
    Quantise(ranges, labels);
    RowMatrix queries(positions * group, d);  // [positions, group]
    for (int p = 0; p < positions; ++p) {
      const float* row =
          kept.queries.data() + (int64_t{p} * statistics.heads + int64_t{kv_head} * group) * d;
      std::copy(row, row + int64_t{group} * d, queries.row(int64_t{p} * group).data());
    }
    queries *= scale;
    RowMatrix exact = queries * keys.transpose();
    if (cap > 0) exact = cap * (exact / cap).array().tanh();
    RowMatrix approximate = (queries * a) * labels.transpose();
    Eigen::VectorXf mass(exact.rows());
    for (int i = 0; i < exact.rows(); ++i) {
      const int count = window.query_positions[i / group] + 1;
      mass[i] = Exponentiate(exact.row(i), count);
      approximate.row(i) /= Exponentiate(approximate.row(i), count);
    }
    const RowMatrix dense = mass.cwiseInverse().asDiagonal() * (exact * values);

    // A stream of zeros, as only a made-up model has, counts as one of ones.
    const double energy_scale = kept.residual_energy > 0 ? kept.residual_energy : 1;
    const double share =
        1 / (energy_scale * positions * static_cast<double>(statistics.windows.size()));
    std::vector<int> budgets(levels);
    RowMatrix outputs(static_cast<Eigen::Index>(levels), int64_t{group} * d);
    for (int p = 0; p < positions; ++p) {
      const int count = window.query_positions[p] + 1;
      for (size_t i = 0; i < levels; ++i) {
        const int budget = static_cast<int>(std::ceil(fractions[i] * count));
        budgets[i] = std::min(count, std::max(budget, forced.sinks + forced.window));
      }
      const int64_t first = int64_t{p} * group;
      Eigen::RowVectorXf telling = approximate.middleRows(first, group).colwise().sum();
      telling.head(std::min(forced.sinks, count))
          .setConstant(std::numeric_limits<float>::infinity());
      const int recent = std::min(forced.window, count);
      telling.segment(count - recent, recent).setConstant(std::numeric_limits<float>::infinity());
      Trial(values, budgets)
          .Run(exact.middleRows(first, group), {telling.data(), static_cast<size_t>(count)},
               outputs);
      for (int h = 0; h < group; ++h) {
        outputs.middleCols(int64_t{h} * d, d).rowwise() -= dense.row(first + h);
      }
      const Eigen::VectorXf energy = (outputs * gram).cwiseProduct(outputs).rowwise().sum();
      for (size_t i = 0; i < levels; ++i) errors[i] += share * energy[static_cast<Eigen::Index>(i)];
    }
  }
  return errors;
}

}  // namespace winnow
