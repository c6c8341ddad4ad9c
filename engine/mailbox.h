#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/request.h"

namespace winnow {

/// A request on its way to the engine.
struct Submission {
  Request request;
  RequestSink* sink = nullptr;
  absl::Time submitted;
};

/// What has arrived since the engine last looked.
struct Messages {
  std::vector<Submission> submissions;
  std::vector<uint64_t> cancellations;  ///< come after the submissions
  std::optional<absl::Time> drain_until;
  bool wake = false;
  bool stop = false;
};

/// The one queue into the engine: many threads post, the engine thread takes. Submissions are
/// bounded together with those that the engine has taken but not admitted yet; the other messages
/// always get through.
class Mailbox {
 public:
  explicit Mailbox(int max_waiting_requests) : max_waiting_requests_(max_waiting_requests) {}

  /// RESOURCE_EXHAUSTED when max_waiting_requests wait already, UNAVAILABLE after Drain or Stop.
  absl::Status Submit(Request request, RequestSink* sink, absl::Time now);
  void Cancel(uint64_t request_id);
  void Wake();
  void Drain(absl::Time limit);
  void Stop();

  /// Takes everything, after waiting for a message until `until`. Engine thread only.
  Messages Take(absl::Time until);

  /// How many of the submissions taken so far are not admitted yet. Engine thread only.
  void SetUnadmitted(int requests);

 private:
  bool HasMessages() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const int max_waiting_requests_;
  // Not an absl::Mutex: ThreadSanitizer cannot see the locks of a distribution's Abseil.
  std::mutex mutex_;
  std::condition_variable posted_;  ///< there is a message
  Messages messages_ ABSL_GUARDED_BY(mutex_);
  int unadmitted_ ABSL_GUARDED_BY(mutex_) = 0;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace winnow
