#include "engine/model/weights_ahead.h"

#include <algorithm>
#include <span>
#include <utility>

namespace winnow {
namespace {

constexpr size_t kLeastPageBytes = 4096;

int64_t Bytes(const HostWeight& weight) { return static_cast<int64_t>(weight.matrix.data.size()); }

}  // namespace

WeightsAhead::WeightsAhead(const WeightSource& source, std::vector<std::string> names, int64_t room)
    : source_(source), names_(std::move(names)), room_(room), thread_([this] { Run(); }) {}

WeightsAhead::~WeightsAhead() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopped_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void WeightsAhead::Run() {
  for (const std::string& name : names_) {
    {
      std::unique_lock<std::mutex> lock(mutex_);
      changed_.wait(
          lock, [this] { return stopped_ || (made_bytes_ < room_ && read_bytes_ < kReadBytes); });
      if (stopped_) return;
    }
    HostWeight weight = source_.Weight(name);
    if (weight.memory == nullptr) Touch(weight.matrix.data);
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      ReadyBytes(weight) += Bytes(weight);
      ready_.push_back(std::move(weight));
    }
    changed_.notify_all();
  }
}

// Has the kernel read all of this memory from the file that is mapped there.
void WeightsAhead::Touch(std::span<const std::byte> mapped) const {
  const volatile std::byte* bytes = mapped.data();
  for (size_t i = 0; i < mapped.size() && !stopped_; i += kLeastPageBytes) {
    static_cast<void>(bytes[i]);
  }
}

int64_t& WeightsAhead::ReadyBytes(const HostWeight& weight) const {
  return weight.memory == nullptr ? read_bytes_ : made_bytes_;
}

HostWeight WeightsAhead::TakeNext(std::unique_lock<std::mutex>& lock) const {
  changed_.wait(lock, [this] { return !ready_.empty(); });
  HostWeight weight = std::move(ready_.front());
  ready_.pop_front();
  ++taken_;
  ReadyBytes(weight) -= Bytes(weight);
  changed_.notify_all();
  return weight;
}

HostWeight WeightsAhead::Weight(std::string_view name) const {
  {
    std::unique_lock<std::mutex> lock(mutex_);
    const auto next = names_.begin() + static_cast<std::ptrdiff_t>(taken_);
    const auto found = std::find(next, names_.end(), name);
    if (found != names_.end()) {
      for (auto skipped = found - next; skipped > 0; --skipped) TakeNext(lock);
      return TakeNext(lock);
    }
  }
  return source_.Weight(name);
}

}  // namespace winnow
