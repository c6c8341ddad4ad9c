#include "server/grpc/slow_readers.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "grpc/grpc.h"

namespace winnow {

SlowReaders::Watch::Watch(SlowReaders& readers, grpc::CallbackServerContext& context)
    : readers_(readers), context_(context) {
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
  std::vector<grpc_call*> slow;
  {
    absl::MutexLock lock(&mutex_);
    for (Watch* watch : watches_) {
      const int64_t started = watch->write_started_;
      if (started == 0 || started > latest || watch->cut_off_) continue;
      watch->cut_off_ = true;
      slow.push_back(watch->context_.c_call());
      grpc_call_ref(slow.back());
    }
  }
  // Without the lock: gRPC may end a call, and with it its watch, in this thread.
  const std::string message =
      absl::StrCat("the client has read nothing for ", absl::ToDoubleSeconds(limit), " seconds");
  for (grpc_call* call : slow) {
    grpc_call_cancel_with_status(call, GRPC_STATUS_ABORTED, message.c_str(), nullptr);
    grpc_call_unref(call);
  }
}

}  // namespace winnow
