#include "kernels/cpu/read_bandwidth.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <vector>

namespace winnow::cpu {

double MeasureReadBandwidth(ThreadPool& pool) {
  constexpr int64_t kWords = (int64_t{512} << 20) / sizeof(uint64_t);
  constexpr int64_t kItems = 256;
  constexpr int64_t kItemWords = kWords / kItems;
  constexpr int kPasses = 4;
  std::vector<uint64_t> data(kWords, 1);
  std::atomic<uint64_t> total{0};
  double best_seconds = 1e9;
  for (int pass = 0; pass < kPasses; ++pass) {
    const auto start = std::chrono::steady_clock::now();
    pool.ParallelFor(kItems, [&](int64_t item, int) {
      // Eight sums, so that loads and not the additions' latency decide.
      uint64_t sums[8] = {};
      const uint64_t* words = data.data() + item * kItemWords;
      for (int64_t i = 0; i < kItemWords; i += 8) {
        for (int j = 0; j < 8; ++j) sums[j] += words[i + j];
      }
      for (uint64_t sum : sums) total.fetch_add(sum, std::memory_order_relaxed);
    });
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    best_seconds = std::min(best_seconds, elapsed.count());
  }
  // Always true; keeps the compiler from dropping the sums.
  return total.load() == 0 ? 0 : kWords * sizeof(uint64_t) / best_seconds;
}

}  // namespace winnow::cpu
