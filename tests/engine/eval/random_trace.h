#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <random>
#include <vector>

#include "engine/eval/row_trace.h"

namespace winnow {

/// A trace of `steps` steps that each select `selected` of `rows` rows: some of those of the step
/// before, and others.
inline RowTrace RandomTrace(int steps, int rows, int selected, uint32_t seed) {
  std::mt19937 random(seed);
  RowTrace trace;
  std::vector<int32_t> all(static_cast<size_t>(rows));
  std::iota(all.begin(), all.end(), 0);
  std::shuffle(all.begin(), all.end(), random);
  for (int s = 0; s < steps; ++s) {
    // Any two change places, so that most of what was among the first stays there.
    for (int i = 0; i < selected / 2 + 1; ++i) {
      std::swap(all[random() % all.size()], all[random() % all.size()]);
    }
    std::vector<int32_t> step(all.begin(), all.begin() + selected);
    std::sort(step.begin(), step.end());
    trace.AddStep(step);
  }
  return trace;
}

}  // namespace winnow
