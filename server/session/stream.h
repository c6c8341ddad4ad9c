#pragma once

#include <cstddef>
#include <functional>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "engine/request/request.h"

namespace winnow {

/// The bounded stream of one request's output, from the engine thread to whoever writes it out.
///
/// The engine thread puts outputs in (RequestSink); the writer takes all that is there at once.
/// While `capacity` outputs wait, HasRoom is false and the engine pauses the request; taking them
/// wakes it.
class RequestStream final : public RequestSink {
 public:
  /// What came since the last Take: outputs in order, and the summary if the request is over.
  struct Batch {
    std::vector<Output> outputs;
    std::optional<RequestSummary> summary;
  };

  /// `continuations`: the request's n. `ready` is called, without locks held, when something can be
  /// taken after Take found nothing. `wake_engine` is called when room has returned.
  RequestStream(int continuations, size_t capacity, std::function<void()> ready,
                std::function<void()> wake_engine);

  /// All that is there, or nothing; then `ready` will be called once there is. The output that ends
  /// the last continuation comes together with the summary.
  std::optional<Batch> Take();

  /// The writer can't write any more: drops what comes from now on, except the summary.
  void DiscardOutputs();

  bool HasRoom() const override;
  void OnOutput(Output output) override;
  void OnFinished(RequestSummary summary) override;

 private:
  bool HasSomething() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  /// Whether the writer must be told now; it then counts as told.
  bool MustTellWriter() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const size_t capacity_;
  const std::function<void()> ready_;
  const std::function<void()> wake_engine_;

  mutable absl::Mutex mutex_;
  Batch batch_ ABSL_GUARDED_BY(mutex_);
  int running_ ABSL_GUARDED_BY(mutex_);  ///< continuations that have not ended
  bool writer_waits_ ABSL_GUARDED_BY(mutex_) = false;
  bool discard_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace winnow
