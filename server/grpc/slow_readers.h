#pragma once

#include <atomic>
#include <cstdint>
#include <unordered_set>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "grpcpp/server_context.h"

namespace winnow {

/// Ends calls whose clients have stopped reading: they hold KV blocks and a place among the running
/// requests for nothing.
class SlowReaders {
 public:
  /// Watches the writes of one call while it exists. REQUIRES: `readers` and `context` outlive it.
  class Watch {
   public:
    Watch(SlowReaders& readers, grpc::CallbackServerContext& context);
    ~Watch();
    Watch(const Watch&) = delete;
    Watch& operator=(const Watch&) = delete;

    /// A write starts, and has ended.
    void OnWrite();
    void OnWriteDone() { write_started_ = 0; }
    /// Whether the call was ended because of this.
    bool cut_off() const { return cut_off_; }

   private:
    friend class SlowReaders;
    SlowReaders& readers_;
    grpc::CallbackServerContext& context_;
    std::atomic<int64_t> write_started_ = 0;  ///< Unix time in ns; 0: nothing is being written
    std::atomic<bool> cut_off_ = false;
  };

  /// Ends calls, with ABORTED, whose write started more than `limit` before `now`. To be called
  /// now and then.
  void CutOff(absl::Duration limit, absl::Time now);

 private:
  absl::Mutex mutex_;
  std::unordered_set<Watch*> watches_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace winnow
