#pragma once

#include <cstdint>
#include <vector>

#include "engine/eval/row_trace.h"

namespace winnow {

/// Rows of the steps from `first_step` on that the step before selected, too. REQUIRES: first_step
/// >= 1.
int64_t CountOverlap(const RowTrace& trace, int first_step);

/// How long ago rows were last selected when they are: the age of one that the step before selected
/// is 1.
struct RowAges {
  std::vector<int64_t> by_age;  ///< rows of ages 1, 2, 3 to 4, 5 to 8, .., 2^(i - 1) + 1 to 2^i
  int64_t never = 0;            ///< rows that no earlier step of the trace selected
};

/// The ages of the rows of the steps from `first_step` on. As many classes of ages as the trace's
/// steps can have. REQUIRES: at least two steps.
RowAges CountAges(const RowTrace& trace, int first_step);

}  // namespace winnow
