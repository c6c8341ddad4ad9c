#pragma once

#include <span>
#include <vector>

namespace winnow {

/// Weights of what is not chosen at which errors are measured: 0, 1/8, .., 1.
const std::vector<double>& TailWeightGrid();

/// How much of what a KV head does not choose is to count.
struct BestTail {
  double weight;
  double error;  ///< that it leaves
};

/// The weight of the least error, the smallest among equals. `errors` are those at `grid`, whose
/// weights are evenly spaced; between them an error is taken for the parabola through the least and
/// its two neighbours. REQUIRES: a grid that is not empty.
BestTail ChooseTailWeight(std::span<const double> errors, std::span<const double> grid);

}  // namespace winnow
