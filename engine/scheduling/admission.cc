#include "engine/scheduling/admission.h"

#include <algorithm>
#include <optional>

#include "absl/strings/str_cat.h"
#include "engine/request/refusal.h"

namespace winnow {
namespace {

/// What estimates are multiplied by before they are compared with a deadline: the request's own,
/// and the average one's, which stands for longer ones too.
constexpr double kDeadlineMargin = 1.1;
constexpr double kAverageMargin = 1.5;
/// Bounds of the times to retry after.
constexpr absl::Duration kMinRetry = absl::Milliseconds(100);
constexpr absl::Duration kMaxRetry = absl::Minutes(1);

absl::Duration RetryAfter(double seconds) {
  return std::clamp(absl::Seconds(seconds), kMinRetry, kMaxRetry);
}

}  // namespace

absl::Status Admission::Check(const Request& request, const EngineLoad& engine,
                              const Offers& offers, absl::Time now) const {
  const Forecast& forecast = engine.forecast;
  const Load load = forecast.LoadOf(request);
  Load ahead = engine.waiting.Ahead(request.priority, request.client, load);
  ahead += offers.KeptForOthers(request.client, engine, now);
  const Forecast::Pace pace = forecast.PaceAfter(ahead, engine.running, request.priority);

  const QueueBounds::Bound bound = bounds_.ExceededWith(engine.waiting, load);
  if (bound != QueueBounds::Bound::kNone && QueueBounds::WouldGiveWay(engine.waiting, request)) {
    const bool requests = bound == QueueBounds::Bound::kRequests;
    return Refusal(
        requests ? ShedReason::kQueueRequests : ShedReason::kQueueTokens,
        requests
            ? absl::StrCat("the queue is full: ", bounds_.max_requests(), " requests are waiting")
            : absl::StrCat("the queue is full: ", engine.waiting.total().prompt_tokens,
                           " prompt tokens are waiting of at most ", bounds_.max_tokens()),
        RetryAfter(pace.wait_seconds));
  }

  const bool idle = engine.running.levels.empty() && engine.waiting.total().requests == 0;
  if (request.deadline == absl::InfiniteFuture() || idle || !forecast.known()) {
    return absl::OkStatus();
  }
  const double end =
      forecast.EndSeconds(pace, load.prompt_tokens, load.decode_tokens / load.sequences);
  const double left = absl::ToDoubleSeconds(request.deadline - now);
  double late = end * kDeadlineMargin - left;
  if (const std::optional<Offers::Average> average = offers.average()) {
    const double average_end = forecast.EndSeconds(pace, average->prompt_tokens, average->tokens);
    late = std::max(late, average_end * kAverageMargin - average->seconds);
  }
  if (late <= 0) return absl::OkStatus();
  return Refusal(
      ShedReason::kDeadline,
      absl::StrCat("too busy to end requests within their deadlines: this one would take "
                   "about ",
                   end, " s of ", left, " s"),
      RetryAfter(late));
}

}  // namespace winnow
