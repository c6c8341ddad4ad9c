#include "engine/eval/linear_fit.h"

#include <Eigen/Cholesky>
#include <cmath>

namespace winnow {
namespace {

LinearMap::RowMajor WithOnes(const LinearMap::Rows& x) {
  LinearMap::RowMajor with(x.rows(), x.cols() + 1);
  with.leftCols(x.cols()) = x;
  with.col(x.cols()).setOnes();
  return with;
}

}  // namespace

LinearMap::RowMajor LinearMap::Run(const Rows& x) const { return WithOnes(x) * weights_; }

LinearFit::LinearFit(int inputs, int outputs)
    : gram_(LinearMap::RowMajor::Zero(inputs + 1, inputs + 1)),
      cross_(LinearMap::RowMajor::Zero(inputs + 1, outputs)) {}

void LinearFit::Add(const LinearMap::Rows& x, const LinearMap::Rows& y) {
  const LinearMap::RowMajor with = WithOnes(x);
  gram_.noalias() += with.transpose() * with;
  cross_.noalias() += with.transpose() * y;
}

LinearMap LinearFit::Solve(double ridge) const {
  // In units in which every input has a mean square of 1.
  Eigen::MatrixXd gram = gram_.cast<double>();
  Eigen::VectorXd unit = gram.diagonal();
  for (double& u : unit) u = u > 0 ? 1 / std::sqrt(u) : 0;
  gram = unit.asDiagonal() * gram * unit.asDiagonal();
  gram.diagonal().array() += ridge;
  const Eigen::MatrixXd cross = unit.asDiagonal() * cross_.cast<double>();
  const Eigen::MatrixXd weights = unit.asDiagonal() * gram.llt().solve(cross);
  return LinearMap(weights.cast<float>());
}

}  // namespace winnow
