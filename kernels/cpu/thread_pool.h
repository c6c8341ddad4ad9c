#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace winnow::cpu {

/// Threads that share one loop after another. Regions follow each other within microseconds in a
/// decode step, so idle workers spin for a while before they sleep. Items are claimed one by one: a
/// worker that the system holds up delays the items that it holds, not the region.
///
/// ParallelFor may be called by one thread at a time and not from within a body.
class ThreadPool {
 public:
  /// `threads` counts the calling thread; 0 means one per core.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  /// Calls body(item, worker) for every item in [0, items), in any order and in parallel, and
  /// returns when all are done. worker is in [0, threads()); bodies of the same worker never
  /// overlap.
  template <typename Body>
  void ParallelFor(int64_t items, const Body& body) {
    if (items <= 1 || workers_.empty()) {
      for (int64_t item = 0; item < items; ++item) body(item, 0);
      return;
    }
    Run(items, &body, [](const void* context, int64_t item, int worker) {
      (*static_cast<const Body*>(context))(item, worker);
    });
  }

 private:
  using Function = void (*)(const void* context, int64_t item, int worker);

  void Run(int64_t items, const void* context, Function function);
  void WorkerLoop(int worker);
  /// Claims and runs items of the current region until none is left.
  void RunItems(int worker);

  // The region: its number in the upper half, the next unclaimed item in the lower, which is beyond
  // all items while the description changes. A claim is a compare-exchange on both, so a worker
  // that comes late can't take an item of a region whose description it has not read.
  std::atomic<uint64_t> claim_{0};
  std::atomic<int64_t> items_{0};
  std::atomic<const void*> context_{nullptr};
  std::atomic<Function> function_{nullptr};
  std::atomic<int64_t> done_{0};
  std::atomic<uint32_t> wake_{0};  ///< counts regions; what sleeping workers wait on
  std::atomic<bool> stop_{false};
  std::vector<std::thread> workers_;
};

}  // namespace winnow::cpu
