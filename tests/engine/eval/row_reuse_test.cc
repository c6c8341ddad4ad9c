#include "engine/eval/row_reuse.h"

#include <cstdint>
#include <numeric>
#include <set>
#include <span>
#include <vector>

#include "gtest/gtest.h"
#include "tests/engine/eval/random_trace.h"

namespace winnow {
namespace {

std::set<int32_t> SetOf(std::span<const int32_t> rows) { return {rows.begin(), rows.end()}; }

TEST(RowReuseTest, OverlapIsTheSizeOfIntersections) {
  const RowTrace trace = RandomTrace(50, 40, 10, 3);
  for (const int first_step : {1, 20}) {
    int64_t expected = 0;
    for (int s = first_step; s < trace.steps(); ++s) {
      const std::set<int32_t> before = SetOf(trace.step(s - 1));
      for (const int32_t row : SetOf(trace.step(s))) expected += before.contains(row) ? 1 : 0;
    }
    EXPECT_EQ(CountOverlap(trace, first_step), expected);
  }
}

TEST(RowReuseTest, AgesAreStepsSinceARowWasSelected) {
  RowTrace trace;
  for (const int32_t row : {1, 1, 2, 1, 3, 4, 5, 2}) trace.AddStep({&row, 1});
  const RowAges all = CountAges(trace, 0);
  // Row 1 comes again after 1 and after 2 steps, row 2 after 5.
  EXPECT_EQ(all.by_age, (std::vector<int64_t>{1, 1, 0, 1}));
  EXPECT_EQ(all.never, 5);
  const RowAges late = CountAges(trace, 3);
  EXPECT_EQ(late.by_age, (std::vector<int64_t>{0, 1, 0, 1}));
  EXPECT_EQ(late.never, 3);
}

TEST(RowReuseTest, AgesCountEveryRowOnceAndThoseOfOneStepAreTheOverlap) {
  const RowTrace trace = RandomTrace(50, 40, 10, 4);
  const RowAges ages = CountAges(trace, 8);
  EXPECT_EQ(std::accumulate(ages.by_age.begin(), ages.by_age.end(), ages.never),
            trace.CountRows(8));
  EXPECT_EQ(ages.by_age[0], CountOverlap(trace, 8));
}

TEST(RowReuseTest, TheLargestAgeHasAClass) {
  RowTrace trace;
  for (const int32_t row : {1, 2, 2, 2, 2, 1}) trace.AddStep({&row, 1});
  EXPECT_EQ(CountAges(trace, 5).by_age, (std::vector<int64_t>{0, 0, 0, 1}));
}

}  // namespace
}  // namespace winnow
