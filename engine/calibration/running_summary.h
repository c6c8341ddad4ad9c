#pragma once

#include <Eigen/Core>

#include "engine/calibration/row_matrix.h"

namespace winnow {

/// The summary of one KV head's tokens in a window (kernels/summary.h), as it is for one row after
/// another. Sums are kept in double.
class RunningSummary {
 public:
  /// What a row estimates by.
  struct Estimate {
    Eigen::RowVectorXf mean_code;   ///< [width]
    Eigen::RowVectorXf mean_key;    ///< [head_dim]
    Eigen::RowVectorXf mean_value;  ///< [head_dim]
    RowMatrix slopes;               ///< [width, head_dim] of values on codes
  };

  /// `codes` [tokens, width], `keys` and `values` [tokens, head_dim] must outlive this.
  RunningSummary(const RowMatrix& codes, const RowMatrix& keys, const RowMatrix& values, int sinks);

  /// What there is for a row at `position`, until the next call. REQUIRES: HasSummary for that
  /// position, which is not below that of the call before.
  const Estimate& At(int position);

 private:
  void AddPiece();
  void Solve();

  const RowMatrix& codes_;
  const RowMatrix& keys_;
  const RowMatrix& values_;
  int sinks_;
  int tokens_ = 0;               // that have been added, the sinks among them
  Eigen::RowVectorXd code_sum_;  // and so on: over all added tokens but the sinks
  Eigen::RowVectorXd key_sum_;
  Eigen::RowVectorXd value_sum_;
  Eigen::MatrixXd code_moment_;   // [width, width] sum of c c^T
  Eigen::MatrixXd value_moment_;  // [width, head_dim] sum of c v^T
  Estimate estimate_;
};

}  // namespace winnow
