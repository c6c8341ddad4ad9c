#pragma once

#include <Eigen/Core>
#include <utility>

namespace winnow {

/// y = W x + b.
class LinearMap {
 public:
  using RowMajor = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  using Rows = Eigen::Ref<const RowMajor>;

  /// Maps nothing.
  LinearMap() = default;
  /// `weights` [inputs + 1, outputs]: W transposed, and below it b.
  explicit LinearMap(RowMajor weights) : weights_(std::move(weights)) {}

  /// [rows, outputs] of `x` [rows, inputs].
  RowMajor Run(const Rows& x) const;

 private:
  RowMajor weights_;
};

/// Finds the map that fits pairs of x and y best in the mean of squares. Keeps their moments, not
/// the pairs.
class LinearFit {
 public:
  LinearFit(int inputs, int outputs);

  /// Adds pairs: x [rows, inputs], y [rows, outputs].
  void Add(const LinearMap::Rows& x, const LinearMap::Rows& y);

  /// The map of the least sum over the pairs of |W x + b - y|^2, plus `ridge` times what the
  /// weights of each input would add were it alone: ridge sum_i E_i |W_i|^2, E_i the sum over the
  /// pairs of x_i^2. So it does not matter in which units inputs are. Inputs that are always 0 get
  /// weights 0. REQUIRES: ridge is above 0, and there are pairs.
  LinearMap Solve(double ridge) const;

 private:
  LinearMap::RowMajor gram_;   ///< [inputs + 1, inputs + 1]: sums of x x^T, x followed by a 1
  LinearMap::RowMajor cross_;  ///< [inputs + 1, outputs]: sums of x y^T
};

}  // namespace winnow
