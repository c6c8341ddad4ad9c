#include "server/delivery_thread.h"

#include <utility>

namespace winnow {

DeliveryThread::DeliveryThread() : thread_([this] { Loop(); }) {}

DeliveryThread::~DeliveryThread() {
  {
    absl::MutexLock lock(&mutex_);
    stop_ = true;
  }
  thread_.join();
}

void DeliveryThread::Post(std::function<void()> delivery) {
  absl::MutexLock lock(&mutex_);
  waiting_.push_back(std::move(delivery));
}

void DeliveryThread::Loop() {
  const auto has_something = [this] {
    mutex_.AssertReaderHeld();
    return stop_ || !waiting_.empty();
  };
  while (true) {
    std::vector<std::function<void()>> deliveries;
    {
      absl::MutexLock lock(&mutex_, absl::Condition(&has_something));
      if (waiting_.empty()) return;
      deliveries.swap(waiting_);
    }
    for (const std::function<void()>& delivery : deliveries) delivery();
  }
}

}  // namespace winnow
