#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/cpu/thread_pool.h"

namespace winnow::cpu {

/// Work items of a parallel operator for each worker: many, so that a disturbed one does not hold
/// up the others.
inline constexpr int64_t kItemsPerWorker = 16;

/// Below this many elements a row-wise operator is not worth waking the workers.
inline constexpr int64_t kSerialElements = 16384;

/// Calls body(row) for every row in [0, rows), in parallel where that pays.
template <typename Body>
void ForRows(ThreadPool& pool, int64_t rows, int64_t elements_per_row, const Body& body) {
  const bool serial = rows * elements_per_row < kSerialElements;
  const int64_t items = serial ? 1 : std::min(rows, pool.threads() * kItemsPerWorker);
  const auto run = [&](int64_t item, int) {
    for (int64_t t = item * rows / items; t < (item + 1) * rows / items; ++t) body(t);
  };
  serial ? run(0, 0) : pool.ParallelFor(items, run);
}

}  // namespace winnow::cpu
