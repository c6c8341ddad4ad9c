#include "kernels/cpu/thread_pool.h"

#include <algorithm>

namespace winnow::cpu {
namespace {

// About 50 microseconds: longer than the gaps between the regions of a step, much shorter than the
// gaps between steps when the server idles.
constexpr int kSpins = 2000;

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

constexpr uint64_t kItemMask = 0xffffffff;

}  // namespace

ThreadPool::ThreadPool(int threads) {
  if (threads <= 0) threads = std::max(1u, std::thread::hardware_concurrency());
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { WorkerLoop(i); });
}

ThreadPool::~ThreadPool() {
  stop_.store(true, std::memory_order_relaxed);
  wake_.fetch_add(1, std::memory_order_release);
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::Run(int64_t items, const void* context, Function function) {
  // While the description changes nobody may claim. That the previous region's items are all
  // claimed is not enough: to a worker that has read its last claim, more items would make that
  // valid again.
  const uint64_t region = (claim_.load(std::memory_order_relaxed) >> 32) + 1;
  claim_.store(region << 32 | kItemMask, std::memory_order_relaxed);
  // Who sees this also sees that the old claim is gone.
  items_.store(items, std::memory_order_release);
  context_.store(context, std::memory_order_relaxed);
  function_.store(function, std::memory_order_relaxed);
  done_.store(0, std::memory_order_relaxed);
  claim_.store(region << 32, std::memory_order_release);
  wake_.fetch_add(1, std::memory_order_release);
  wake_.notify_all();

  RunItems(0);
  for (int spins = 0; done_.load(std::memory_order_acquire) != items; ++spins) {
    if (spins < kSpins) {
      Pause();
    } else {
      std::this_thread::yield();
    }
  }
}

void ThreadPool::RunItems(int worker) {
  uint64_t claim = claim_.load(std::memory_order_acquire);
  for (;;) {
    const auto item = static_cast<int64_t>(claim & kItemMask);
    const void* context = context_.load(std::memory_order_relaxed);
    const Function function = function_.load(std::memory_order_relaxed);
    if (item >= items_.load(std::memory_order_acquire)) return;
    if (!claim_.compare_exchange_weak(claim, claim + 1, std::memory_order_acq_rel)) continue;
    function(context, item, worker);
    done_.fetch_add(1, std::memory_order_release);
    claim = claim_.load(std::memory_order_acquire);
  }
}

void ThreadPool::WorkerLoop(int worker) {
  uint32_t seen = 0;
  while (!stop_.load(std::memory_order_relaxed)) {
    uint32_t wake = wake_.load(std::memory_order_acquire);
    for (int spins = 0; wake == seen && spins < kSpins; ++spins) {
      Pause();
      wake = wake_.load(std::memory_order_acquire);
    }
    if (wake == seen) {
      wake_.wait(seen, std::memory_order_acquire);
      continue;
    }
    seen = wake;
    RunItems(worker);
  }
}

}  // namespace winnow::cpu
