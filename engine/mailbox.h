#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/request/engine_options.h"
#include "engine/request/request.h"
#include "engine/scheduling/admission.h"
#include "engine/scheduling/engine_load.h"
#include "engine/scheduling/offers.h"

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

/// The one queue into the engine: many threads post, the engine thread collects. Submissions are
/// bounded together with those that wait in the engine already; the other messages always get
/// through.
///
/// It decides by what the engine published last, with the submissions since then, and by what has
/// come (Offers), which is its own. Prompts cost nothing here, since what the prefix cache has of
/// them is known to the engine thread alone; that looks at deadlines again (EngineCore::Submit).
class Mailbox {
 public:
  explicit Mailbox(const EngineOptions& options) : admission_(options), engine_(options) {}

  /// What Submit would say of a request that lacks its prompt, at best.
  absl::Status CheckOutline(const Request& outline, absl::Time now);
  /// Posts the request. A Refusal as Admission::Check decides, UNAVAILABLE after Drain or Stop.
  absl::Status Submit(Request request, RequestSink* sink, absl::Time now);
  void Cancel(uint64_t request_id);
  void Wake();
  void Drain(absl::Time limit);
  void Stop();

  /// Takes all messages, after waiting for one until `until`. Engine thread only.
  Messages Collect(absl::Time until);

  /// What the engine has to do, with all submissions collected so far. Returns what waits now, here
  /// and in the engine. Engine thread only.
  Load Publish(EngineLoad engine);

 private:
  absl::Status Check(const Request& request, absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Count(const Request& request) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool HasMessages() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Admission admission_;
  // Not an absl::Mutex: ThreadSanitizer cannot see the locks of a distribution's Abseil.
  std::mutex mutex_;
  std::condition_variable posted_;  ///< there is a message
  Messages messages_ ABSL_GUARDED_BY(mutex_);
  /// As published last, and with what was submitted since.
  EngineLoad engine_ ABSL_GUARDED_BY(mutex_);
  Offers offers_ ABSL_GUARDED_BY(mutex_);
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace winnow
