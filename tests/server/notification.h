#pragma once

#include <condition_variable>
#include <mutex>

namespace winnow {

/// An absl::Notification whose order ThreadSanitizer can see: it does not see the conditions of a
/// distribution's Abseil.
class Notification {
 public:
  void Notify() {
    std::lock_guard lock(mutex_);
    notified_ = true;
    changed_.notify_all();
  }
  bool HasBeenNotified() {
    std::lock_guard lock(mutex_);
    return notified_;
  }
  void WaitForNotification() {
    std::unique_lock lock(mutex_);
    while (!notified_) changed_.wait(lock);
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool notified_ = false;
};

}  // namespace winnow
