#pragma once

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/request/engine_options.h"
#include "engine/request/request.h"
#include "engine/scheduling/engine_load.h"
#include "engine/scheduling/offers.h"
#include "engine/scheduling/queue_bounds.h"

namespace winnow {

/// Decides whether a request that comes may wait. It knows nothing but what it is asked with.
///
/// A request is refused
///   - when the queue is full, unless another one gives way (QueueBounds);
///   - when it can't end before its deadline, by the Forecast and a margin;
///   - when its client's average request (Offers) could not. Otherwise a client's short requests,
///     which still can, would fill the engine until its others get in no more;
///   - when, with it, two average requests could not of a client that was refused lately and has
///     less in the engine than this one's. Otherwise who asks most often would take all that
///     becomes free.
/// An engine without any request admits every request: nothing else can tell how long it takes.
class Admission {
 public:
  explicit Admission(const EngineOptions& options) : bounds_(options) {}

  /// OK, or why the request may not wait, with a time to retry after (Refusal). `engine` counts
  /// what is on its way to the engine, but not the request. No prompt is charged: the engine thread
  /// knows what the prefix cache has of it, and asks CheckDeadline again.
  absl::Status Check(const Request& request, const EngineLoad& engine, const Offers& offers,
                     absl::Time now) const;

  /// The same, by the request's own deadline alone.
  static absl::Status CheckDeadline(const Request& request, const Load& load,
                                    const EngineLoad& engine, absl::Time now);

 private:
  absl::Status CheckQueue(const Request& request, const Load& load, const EngineLoad& engine) const;

  QueueBounds bounds_;
};

}  // namespace winnow
