#include "kernels/cpu/thread_pool.h"

#include <atomic>
#include <cstdint>
#include <vector>

#include "gtest/gtest.h"

namespace winnow::cpu {
namespace {

TEST(ThreadPool, RunsEveryItemOnceHoweverFastLoopsOfAllSizesFollowEachOther) {
  ThreadPool pool(3);
  constexpr int64_t kSizes[] = {2, 64, 3, 17, 1, 40};
  constexpr int kRounds = 100000;
  std::vector<std::atomic<int>> runs(64);
  for (int round = 0; round < kRounds; ++round) {
    for (const int64_t size : kSizes) {
      pool.ParallelFor(
          size, [&](int64_t item, int) { runs[item].fetch_add(1, std::memory_order_relaxed); });
      for (int64_t item = 0; item < 64; ++item) {
        ASSERT_EQ(runs[item].exchange(0, std::memory_order_relaxed), item < size ? 1 : 0)
            << "item " << item << " of " << size << " in round " << round;
      }
    }
  }
}

}  // namespace
}  // namespace winnow::cpu
