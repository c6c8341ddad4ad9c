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
///   - when it probably can't end before its deadline, by the Forecast and a margin. Before it
///     are what WaitingLoad::Ahead says and the places kept for other clients (Offers);
///   - when the average request (Offers) could not. Otherwise short requests, which still can,
///     would fill the engine until no others get in.
/// An engine without any request admits every request: nothing else can tell how long it takes.
class Admission {
 public:
  explicit Admission(const EngineOptions& options) : bounds_(options) {}

  /// OK, or why the request may not wait, with a time to retry after (Refusal). `engine` counts
  /// what is on its way to the engine, but not the request. The prompt may be missing: then the
  /// answer is for the shortest possible one.
  absl::Status Check(const Request& request, const EngineLoad& engine, const Offers& offers,
                     absl::Time now) const;

 private:
  QueueBounds bounds_;
};

}  // namespace winnow
