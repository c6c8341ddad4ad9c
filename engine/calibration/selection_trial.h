#pragma once

#include <Eigen/Core>
#include <span>
#include <vector>

#include "engine/calibration/row_matrix.h"

namespace winnow {

/// Tries what the queries of one position would attend to at several budgets. The queries are those
/// of a KV head's group; results have a row for each budget.
class SelectionTrial {
 public:
  using Weights = Eigen::Ref<const RowMatrix>;  ///< [group, tokens]

  /// What is attended to.
  struct Chosen {
    RowMatrix masses;   ///< [budgets, group] sums of weights
    RowMatrix outputs;  ///< [budgets, group head_dim] means of values by these weights
  };
  /// What is not.
  struct Rest {
    RowMatrix masses;  ///< [budgets, group] sums of weights
    RowMatrix codes;   ///< [budgets, group width] means of label codes; 0 where the mass is
  };

  /// Orders the tokens by `telling` [tokens], the largest first and lower numbers first among
  /// equals. `budgets` must outlive this. REQUIRES: budgets ascend, from 1 to the number of tokens.
  SelectionTrial(std::span<const float> telling, std::span<const int> budgets);

  /// What the best tokens, as many as the budget, have of `weights` and `values` [.., head_dim].
  Chosen Choose(const Weights& weights, const RowMatrix& values) const;

  /// What all others have of `weights` and `codes` [.., width]. Summed from the largest budget
  /// down, and never as a difference.
  Rest LeaveOut(const Weights& weights, const RowMatrix& codes) const;

 private:
  std::span<const int> budgets_;
  std::vector<int> order_;  ///< the first budgets_[i] are the best that many, for each i
};

}  // namespace winnow
