#include "engine/calibration/selection_trial.h"

#include <algorithm>
#include <numeric>

namespace winnow {
namespace {

// Sums of weights, and of rows by them, for each query of a group.
struct Sums {
  Sums(Eigen::Index group, Eigen::Index columns)
      : masses(Eigen::RowVectorXf::Zero(group)), rows(RowMatrix::Zero(group, columns)) {}

  void Add(const SelectionTrial::Weights& weights, const RowMatrix& of, int token) {
    for (Eigen::Index h = 0; h < rows.rows(); ++h) rows.row(h) += weights(h, token) * of.row(token);
    masses += weights.col(token).transpose();
  }

  // Writes masses and means, one query's after another's.
  void Write(size_t level, RowMatrix& masses_out, RowMatrix& means_out) const {
    const auto row = static_cast<Eigen::Index>(level);
    masses_out.row(row) = masses;
    for (Eigen::Index h = 0; h < rows.rows(); ++h) {
      auto mean = means_out.row(row).segment(h * rows.cols(), rows.cols());
      mean.setZero();
      if (masses[h] > 0) mean = rows.row(h) / masses[h];
    }
  }

  Eigen::RowVectorXf masses;  // [group]
  RowMatrix rows;             // [group, columns]
};

}  // namespace

SelectionTrial::SelectionTrial(std::span<const float> telling, std::span<const int> budgets)
    : budgets_(budgets), order_(telling.size()) {
  std::iota(order_.begin(), order_.end(), 0);
  auto end = order_.end();
  for (auto budget = budgets.rbegin(); budget != budgets.rend(); ++budget) {
    const auto middle = order_.begin() + *budget;
    if (middle < end) {
      std::nth_element(order_.begin(), middle, end, [&](int a, int b) {
        return telling[a] != telling[b] ? telling[a] > telling[b] : a < b;
      });
    }
    end = middle;
  }
}

SelectionTrial::Chosen SelectionTrial::Choose(const Weights& weights,
                                              const RowMatrix& values) const {
  const auto levels = static_cast<Eigen::Index>(budgets_.size());
  Chosen chosen{RowMatrix(levels, weights.rows()),
                RowMatrix(levels, weights.rows() * values.cols())};
  Sums sums(weights.rows(), values.cols());
  int taken = 0;
  for (size_t level = 0; level < budgets_.size(); ++level) {
    for (; taken < budgets_[level]; ++taken) sums.Add(weights, values, order_[taken]);
    sums.Write(level, chosen.masses, chosen.outputs);
  }
  return chosen;
}

SelectionTrial::Rest SelectionTrial::LeaveOut(const Weights& weights,
                                              const RowMatrix& codes) const {
  const auto levels = static_cast<Eigen::Index>(budgets_.size());
  Rest rest{RowMatrix(levels, weights.rows()), RowMatrix(levels, weights.rows() * codes.cols())};
  Sums sums(weights.rows(), codes.cols());
  auto left = static_cast<int>(order_.size());
  for (size_t level = budgets_.size(); level-- > 0;) {
    while (left > budgets_[level]) sums.Add(weights, codes, order_[--left]);
    sums.Write(level, rest.masses, rest.codes);
  }
  return rest;
}

}  // namespace winnow
