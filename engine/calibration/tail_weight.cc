#include "engine/calibration/tail_weight.h"

#include <algorithm>
#include <cstddef>

namespace winnow {

const std::vector<double>& TailWeightGrid() {
  static const std::vector<double> grid = [] {
    std::vector<double> list;
    for (int i = 0; i <= 8; ++i) list.push_back(i / 8.0);
    return list;
  }();
  return grid;
}

double WeightOfLeastError(std::span<const double> errors, std::span<const double> grid) {
  const size_t i = std::min_element(errors.begin(), errors.end()) - errors.begin();
  if (i == 0 || i + 1 == errors.size()) return grid[i];
  const double fall = errors[i - 1] - errors[i + 1];
  const double bend = errors[i - 1] - 2 * errors[i] + errors[i + 1];
  return bend > 0 ? grid[i] + fall / (2 * bend) * (grid[i + 1] - grid[i]) : grid[i];
}

}  // namespace winnow
