#include "engine/eval/row_reuse.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <span>

namespace winnow {
namespace {

// Which of RowAges::by_age.
size_t AgeClass(int age) {
  return static_cast<size_t>(std::bit_width(static_cast<uint32_t>(age) - 1));
}

}  // namespace

int64_t CountOverlap(const RowTrace& trace, int first_step) {
  int64_t overlap = 0;
  for (int s = first_step; s < trace.steps(); ++s) {
    const std::span<const int32_t> before = trace.step(s - 1);
    overlap += std::ranges::count_if(
        trace.step(s), [&](int32_t row) { return std::ranges::binary_search(before, row); });
  }
  return overlap;
}

RowAges CountAges(const RowTrace& trace, int first_step) {
  constexpr int kNever = -1;
  RowAges ages;
  ages.by_age.resize(AgeClass(trace.steps() - 1) + 1);
  std::vector<int> last(static_cast<size_t>(trace.row_end()), kNever);
  for (int s = 0; s < trace.steps(); ++s) {
    for (const int32_t row : trace.step(s)) {
      int& last_step = last[static_cast<size_t>(row)];
      if (s >= first_step) {
        ++(last_step == kNever ? ages.never : ages.by_age[AgeClass(s - last_step)]);
      }
      last_step = s;
    }
  }
  return ages;
}

}  // namespace winnow
