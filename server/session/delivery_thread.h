#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"

namespace winnow {

/// Runs what the engine's thread hands over: to write a response takes some tens of microseconds,
/// and times the sequences of a step they would add up to time in which the device waits.
class DeliveryThread {
 public:
  DeliveryThread();
  /// Runs what is left.
  ~DeliveryThread();
  DeliveryThread(const DeliveryThread&) = delete;
  DeliveryThread& operator=(const DeliveryThread&) = delete;

  /// Queues `delivery`, to run after those queued before. Does not wait.
  void Post(std::function<void()> delivery);

 private:
  void Loop();

  // Not an absl::Mutex: ThreadSanitizer cannot see the conditions of a distribution's Abseil.
  std::mutex mutex_;
  std::condition_variable posted_;  ///< there is a delivery, or the end
  std::vector<std::function<void()>> waiting_ ABSL_GUARDED_BY(mutex_);
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;  ///< last: it uses the others
};

}  // namespace winnow
