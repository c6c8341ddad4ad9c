#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/request/request.h"
#include "engine/scheduling/admission.h"

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
/// bounded together with those that wait in the engine already; the other messages always get
/// through.
class Mailbox {
 public:
  explicit Mailbox(Admission admission) : admission_(std::move(admission)) {}

  /// What Submit would say of a request that lacks its prompt, at best.
  absl::Status CheckOutline(const Request& outline, absl::Time now);
  /// Posts the request. A Refusal as Admission::Check decides, UNAVAILABLE after Drain or Stop.
  absl::Status Submit(Request request, RequestSink* sink, absl::Time now);
  void Cancel(uint64_t request_id);
  void Wake();
  void Drain(absl::Time limit);
  void Stop();

  /// Takes everything, after waiting for a message until `until`. Engine thread only.
  Messages Take(absl::Time until);

  /// What waits of the submissions taken so far, and what runs. Engine thread only.
  void SetAdmission(Admission admission);

 private:
  absl::Status Check(const Request& request, absl::Time now) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool HasMessages() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // Not an absl::Mutex: ThreadSanitizer cannot see the locks of a distribution's Abseil.
  std::mutex mutex_;
  std::condition_variable posted_;  ///< there is a message
  Messages messages_ ABSL_GUARDED_BY(mutex_);
  Admission admission_ ABSL_GUARDED_BY(mutex_);  ///< with the submissions among the messages
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace winnow
