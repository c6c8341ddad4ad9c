#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <list>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"

namespace winnow {

/// Runs work on texts that clients have sent: tokenizing takes up to microseconds a byte, and the
/// threads of a transport that are busy with megabytes answer nobody else. Short texts are worked
/// on at once, in the caller's thread; others wait for a thread of the pool, clients in turns.
class TextPool {
 public:
  /// Longest text that is worked on at once: some milliseconds at worst.
  static constexpr size_t kAtOnceBytes = 8 << 10;
  /// What may wait: of one client, and in all. A text that finds nothing waiting may be longer.
  static constexpr size_t kMaxClientBytes = 16 << 20;
  static constexpr size_t kMaxBytes = 64 << 20;

  /// One thread for eight of the machine, most of which is left to compute.
  TextPool() : TextPool(std::thread::hardware_concurrency() / 8 + 1) {}
  explicit TextPool(unsigned threads);
  /// Does all the work that is left.
  ~TextPool();
  TextPool(const TextPool&) = delete;
  TextPool& operator=(const TextPool&) = delete;

  /// Has `work`, on a text of so many bytes, run once, in this thread or another, perhaps before
  /// this returns. False, and it will not run, if too much waits.
  bool Run(const std::string& client, size_t bytes, std::function<void()> work);

 private:
  struct Job {
    size_t bytes;
    std::function<void()> work;
  };
  /// What waits of one client. The front of `lanes_` is next.
  struct Lane {
    std::string client;
    size_t bytes = 0;
    std::deque<Job> jobs;
  };

  void Loop();
  Job TakeNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // Not an absl::Mutex: ThreadSanitizer cannot see the conditions of a distribution's Abseil.
  std::mutex mutex_;
  std::condition_variable posted_;  ///< there is work, or the end
  std::list<Lane> lanes_ ABSL_GUARDED_BY(mutex_);
  size_t waiting_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;  ///< last: they use the others
};

}  // namespace winnow
