#pragma once

#include <Eigen/Core>
#include <span>

namespace winnow {

/// The symmetric square root of a covariance and that root's inverse, [head_dim, head_dim] each.
struct SymmetricRoots {
  Eigen::MatrixXd root;
  Eigen::MatrixXd inverse;
};

/// The roots of `covariance` ([head_dim, head_dim], symmetric), damped: eigenvalues below 1e-8 of
/// the largest are raised to it, and all to 1e-12 at least, so that both are finite for a head
/// whose queries or keys are all zero. A file of its own, because Eigen's solver alone takes
/// seconds to compile.
SymmetricRoots MakeSymmetricRoots(std::span<const double> covariance, int head_dim);

}  // namespace winnow
