#include "server/session/delivery_thread.h"

#include <utility>

namespace winnow {

DeliveryThread::DeliveryThread() : thread_([this] { Loop(); }) {}

DeliveryThread::~DeliveryThread() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  posted_.notify_one();
  thread_.join();
}

void DeliveryThread::Post(std::function<void()> delivery) {
  const std::lock_guard lock(mutex_);
  waiting_.push_back(std::move(delivery));
  // Under the lock: once it is free this delivery may be made, and be the last before destruction.
  posted_.notify_one();
}

void DeliveryThread::Loop() {
  while (true) {
    std::vector<std::function<void()>> deliveries;
    {
      std::unique_lock lock(mutex_);
      posted_.wait(lock, [this] { return stop_ || !waiting_.empty(); });
      if (waiting_.empty()) return;
      deliveries.swap(waiting_);
    }
    for (const std::function<void()>& delivery : deliveries) delivery();
  }
}

}  // namespace winnow
