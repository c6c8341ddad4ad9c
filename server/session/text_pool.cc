#include "server/session/text_pool.h"

#include <algorithm>
#include <utility>

namespace winnow {

TextPool::TextPool(unsigned threads) {
  for (unsigned i = 0; i < threads; ++i) threads_.emplace_back([this] { Loop(); });
}

TextPool::~TextPool() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  posted_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

bool TextPool::Run(const std::string& client, size_t bytes, std::function<void()> work) {
  if (bytes <= kAtOnceBytes) {
    work();
    return true;
  }
  const std::lock_guard lock(mutex_);
  auto lane = std::ranges::find(lanes_, client, &Lane::client);
  const size_t own_bytes = lane == lanes_.end() ? 0 : lane->bytes;
  if (waiting_bytes_ > 0 &&
      (waiting_bytes_ + bytes > kMaxBytes || own_bytes + bytes > kMaxClientBytes)) {
    return false;
  }
  if (lane == lanes_.end()) lane = lanes_.insert(lanes_.end(), Lane{.client = client, .jobs = {}});
  lane->jobs.push_back({bytes, std::move(work)});
  lane->bytes += bytes;
  waiting_bytes_ += bytes;
  posted_.notify_one();
  return true;
}

// REQUIRES: something waits.
TextPool::Job TextPool::TakeNext() {
  Lane& lane = lanes_.front();
  Job job = std::move(lane.jobs.front());
  lane.jobs.pop_front();
  lane.bytes -= job.bytes;
  waiting_bytes_ -= job.bytes;
  if (lane.jobs.empty()) {
    lanes_.pop_front();
  } else {
    lanes_.splice(lanes_.end(), lanes_, lanes_.begin());
  }
  return job;
}

void TextPool::Loop() {
  while (true) {
    Job job;
    {
      std::unique_lock lock(mutex_);
      posted_.wait(lock, [this] { return stop_ || !lanes_.empty(); });
      if (lanes_.empty()) return;
      job = TakeNext();
    }
    job.work();
  }
}

}  // namespace winnow
