#include "engine/calibration/parallel.h"

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

namespace winnow {

void ParallelFor(int count, int threads, const std::function<void(int)>& body) {
  if (threads == 0) threads = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  std::atomic<int> next = 0;
  const auto work = [&] {
    for (int i = next++; i < count; i = next++) body(i);
  };
  std::vector<std::thread> others;
  for (int t = 1; t < std::min(threads, count); ++t) others.emplace_back(work);
  work();
  for (std::thread& other : others) other.join();
}

}  // namespace winnow
