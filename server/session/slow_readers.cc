#include "server/session/slow_readers.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace winnow {

SlowReaders::Watch::Watch(SlowReaders& readers, Abort abort)
    : readers_(readers), abort_(std::move(abort)) {
  absl::MutexLock lock(&readers_.mutex_);
  readers_.watches_.insert(this);
}

SlowReaders::Watch::~Watch() {
  absl::MutexLock lock(&readers_.mutex_);
  readers_.watches_.erase(this);
}

void SlowReaders::Watch::OnWrite() { write_started_ = absl::GetCurrentTimeNanos(); }

void SlowReaders::CutOff(absl::Duration limit, absl::Time now) {
  const int64_t latest = absl::ToUnixNanos(now - limit);
  std::vector<Abort> slow;
  {
    absl::MutexLock lock(&mutex_);
    for (Watch* watch : watches_) {
      const int64_t started = watch->write_started_;
      if (started == 0 || started > latest || watch->cut_off_) continue;
      watch->cut_off_ = true;
      slow.push_back(watch->abort_);
    }
  }
  // Without the lock: a call may end, and with it its watch, in this thread.
  const std::string message =
      absl::StrCat("the client has read nothing for ", absl::ToDoubleSeconds(limit), " seconds");
  for (const Abort& abort : slow) abort(message);
}

}  // namespace winnow
