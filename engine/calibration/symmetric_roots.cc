#include "engine/calibration/symmetric_roots.h"

#include <Eigen/Eigenvalues>
#include <algorithm>

namespace winnow {
namespace {

constexpr double kDamping = 1e-8;              // smallest eigenvalue, of the largest
constexpr double kSmallestEigenvalue = 1e-12;  // of a head whose queries or keys are all zero

// V diag(values) V^T.
Eigen::MatrixXd Compose(const Eigen::MatrixXd& v, const Eigen::VectorXd& values) {
  return v * values.asDiagonal() * v.transpose();
}

}  // namespace

SymmetricRoots MakeSymmetricRoots(std::span<const double> covariance, int head_dim) {
  const Eigen::MatrixXd matrix =
      Eigen::Map<const Eigen::MatrixXd>(covariance.data(), head_dim, head_dim);
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(matrix);
  const double floor = std::max(solver.eigenvalues().maxCoeff() * kDamping, kSmallestEigenvalue);
  const Eigen::VectorXd roots = solver.eigenvalues().cwiseMax(floor).cwiseSqrt();
  return {Compose(solver.eigenvectors(), roots),
          Compose(solver.eigenvectors(), roots.cwiseInverse())};
}

}  // namespace winnow
