#include "engine/eval/row_cache.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <list>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tests/engine/eval/random_trace.h"

namespace winnow {
namespace {

RowTrace TraceOf(const std::vector<std::vector<int32_t>>& steps) {
  RowTrace trace;
  for (const std::vector<int32_t>& step : steps) trace.AddStep(step);
  return trace;
}

// Rows are touched one by one, hits before those that have to be fetched.
int64_t LruHitsOfAList(const RowTrace& trace, int capacity, int first_step) {
  std::list<int32_t> cache;
  int64_t hits = 0;
  for (int s = 0; s < trace.steps(); ++s) {
    std::vector<int32_t> found;
    for (const int32_t row : trace.step(s)) {
      if (std::ranges::find(cache, row) != cache.end()) found.push_back(row);
    }
    if (s >= first_step) hits += std::ssize(found);
    for (const int32_t row : trace.step(s)) {
      cache.remove(row);
      cache.push_back(row);
    }
    while (std::ssize(cache) > capacity) cache.pop_front();
  }
  return hits;
}

// The most hits from the step on with such a cache before it, whatever is kept after every step.
class BestHits {
 public:
  BestHits(const RowTrace& trace, int capacity) : trace_(trace), capacity_(capacity) {}

  int64_t From(int step, uint32_t cached) {
    if (step == trace_.steps()) return 0;
    const auto [at, is_new] = known_.try_emplace({step, cached});
    if (!is_new) return at->second;
    uint32_t wanted = 0;
    for (const int32_t row : trace_.step(step)) wanted |= uint32_t{1} << row;
    const uint32_t others = cached & ~wanted;
    int64_t best = 0;
    for (uint32_t kept = others;; kept = (kept - 1) & others) {  // every subset
      if (std::popcount(kept | wanted) <= capacity_) {
        best = std::max(best, From(step + 1, kept | wanted));
      }
      if (kept == 0) break;
    }
    return known_[{step, cached}] = best + std::popcount(cached & wanted);
  }

 private:
  const RowTrace& trace_;
  const int capacity_;
  std::map<std::pair<int, uint32_t>, int64_t> known_;
};

TEST(RowCacheTest, LruHitsAreThoseOfAListOfRows) {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    const RowTrace trace = RandomTrace(40, 30, 6, seed);
    for (const int capacity : {6, 7, 9, 12, 24, 30}) {
      for (const int first_step : {0, 10}) {
        EXPECT_EQ(CountLruHits(trace, capacity, first_step),
                  LruHitsOfAList(trace, capacity, first_step));
      }
    }
  }
}

TEST(RowCacheTest, BeladyHitsAreTheMostThatAnyCacheHas) {
  for (uint32_t seed = 0; seed < 40; ++seed) {
    const RowTrace trace = RandomTrace(9, 8, 2, seed);
    for (const int capacity : {2, 3, 4, 6}) {
      EXPECT_EQ(CountBeladyHits(trace, capacity, 0), BestHits(trace, capacity).From(0, 0));
    }
  }
}

TEST(RowCacheTest, NoCacheHasMoreHitsThanTheBestPossible) {
  for (uint32_t seed = 0; seed < 10; ++seed) {
    const RowTrace trace = RandomTrace(60, 200, 30, seed);
    for (const int capacity : {30, 45, 60, 120}) {
      EXPECT_LE(CountLruHits(trace, capacity, 0), CountBeladyHits(trace, capacity, 0));
    }
  }
}

TEST(RowCacheTest, ACacheForAllRowsMissesEachOnce) {
  const RowTrace trace = RandomTrace(30, 20, 5, 1);
  std::set<int32_t> rows;
  for (int s = 0; s < trace.steps(); ++s) rows.insert(trace.step(s).begin(), trace.step(s).end());
  const int64_t hits = trace.CountRows(0) - std::ssize(rows);
  EXPECT_EQ(CountLruHits(trace, 20, 0), hits);
  EXPECT_EQ(CountBeladyHits(trace, 20, 0), hits);
}

TEST(RowCacheTest, StepsBeforeTheFirstCountedOneFillTheCache) {
  const RowTrace trace = TraceOf({{1, 2}, {1, 3}, {1, 2}});
  EXPECT_EQ(CountLruHits(trace, 3, 2), 2);
  EXPECT_EQ(CountBeladyHits(trace, 3, 2), 2);
  EXPECT_EQ(trace.CountRows(2), 2);
}

TEST(RowCacheTest, StepsThatSelectNothingChangeNothing) {
  const RowTrace trace = TraceOf({{4}, {}, {4}});
  EXPECT_EQ(CountLruHits(trace, 1, 0), 1);
  EXPECT_EQ(CountBeladyHits(trace, 1, 0), 1);
}

}  // namespace
}  // namespace winnow
