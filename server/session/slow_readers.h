#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <unordered_set>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace winnow {

/// Ends calls whose clients have stopped reading: they hold KV blocks and a place among the running
/// requests for nothing.
class SlowReaders {
 public:
  /// Ends a call with ABORTED and the message, whatever its state, also when it is over already.
  /// Copies of it may be called, and outlive the call.
  using Abort = std::function<void(const std::string& message)>;

  /// Watches the writes of one call while it exists. REQUIRES: `readers` outlives it.
  class Watch {
   public:
    Watch(SlowReaders& readers, Abort abort);
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
    const Abort abort_;
    std::atomic<int64_t> write_started_ = 0;  ///< Unix time in ns; 0: nothing is being written
    std::atomic<bool> cut_off_ = false;
  };

  /// Ends calls whose write started more than `limit` before `now`. To be called now and then.
  void CutOff(absl::Duration limit, absl::Time now);

 private:
  absl::Mutex mutex_;
  std::unordered_set<Watch*> watches_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace winnow
