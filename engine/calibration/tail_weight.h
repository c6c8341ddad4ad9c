#pragma once

#include <span>
#include <vector>

namespace winnow {

/// Weights of what is not chosen at which errors are measured: 0, 1/8, .., 1.
const std::vector<double>& TailWeightGrid();

/// The weight of the least error, the smallest among equals. `errors` are those at `grid`, whose
/// weights are evenly spaced; between them an error is taken for the parabola through the least and
/// its two neighbours. REQUIRES: a grid that is not empty.
double WeightOfLeastError(std::span<const double> errors, std::span<const double> grid);

/// So much of that weight is taken: an estimate that counts less dilutes less where a single token
/// is looked up. Down to this share little is lost elsewhere (docs/accuracy.md).
inline constexpr double kTailCaution = 0.75;

}  // namespace winnow
