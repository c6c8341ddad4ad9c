#pragma once

#include <Eigen/Core>

namespace winnow {

/// A matrix whose rows lie one after another, as those of activations do.
using RowMatrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

}  // namespace winnow
