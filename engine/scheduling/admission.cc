#include "engine/scheduling/admission.h"

#include <algorithm>
#include <optional>

#include "absl/strings/str_cat.h"
#include "engine/request/refusal.h"

namespace winnow {
namespace {

/// What estimates are multiplied by before they are compared with a deadline: a single request's,
/// and the average one's of its client, which stands for longer ones too.
constexpr double kMargin = 1.1;
constexpr double kAverageMargin = 1.5;
/// Bounds of the times to retry after.
constexpr absl::Duration kMinRetry = absl::Milliseconds(100);
constexpr absl::Duration kMaxRetry = absl::Minutes(1);

absl::Duration RetryAfter(absl::Duration wait) { return std::clamp(wait, kMinRetry, kMaxRetry); }

absl::Status Late(double seconds, double needed, double left) {
  return Refusal(
      ShedReason::kDeadline,
      absl::StrCat("too busy to end requests within their deadlines: this one would take "
                   "about ",
                   needed, " s of ", left, " s"),
      RetryAfter(absl::Seconds(seconds)));
}

// By how many seconds a client's average request would be late that comes now, with `more` before
// it.
double AverageLate(const std::string& client, int priority, const Offers::Average& average,
                   const Load& more, const EngineLoad& engine) {
  const Estimate end = engine.EndOf(priority, client, average.load, more);
  return end.at_least * kAverageMargin - average.seconds;
}

// The same of the second one of each client that was refused lately and has less in the engine,
// with the request before it: the most.
double OthersLate(const Request& request, const Load& load, const EngineLoad& engine,
                  const Offers& offers) {
  const double own = engine.SequencesOf(request.client);
  double late = 0;
  for (const auto& [client, priority, time] : offers.refused()) {
    if (priority > request.priority || engine.SequencesOf(client) >= own) continue;
    if (const std::optional<Offers::Average> average = offers.AverageOf(client)) {
      late = std::max(late, AverageLate(client, priority, *average, load + average->load, engine));
    }
  }
  return late;
}

}  // namespace

absl::Status Admission::Check(const Request& request, const EngineLoad& engine,
                              const Offers& offers, absl::Time now) const {
  const int prompt = static_cast<int>(request.prompt_tokens.size());
  const Load load = engine.forecast.LoadOf(request, /*known=*/prompt);
  if (absl::Status full = CheckQueue(request, load, engine); !full.ok()) return full;
  if (absl::Status late = CheckDeadline(request, load, engine, now); !late.ok()) return late;
  if (request.deadline == absl::InfiniteFuture() || engine.idle()) return absl::OkStatus();
  double late = OthersLate(request, load, engine, offers);
  if (const std::optional<Offers::Average> average = offers.AverageOf(request.client)) {
    late = std::max(late, AverageLate(request.client, request.priority, *average, {}, engine));
  }
  if (late <= 0) return absl::OkStatus();
  return Late(late, engine.EndOf(request.priority, request.client, load).seconds,
              absl::ToDoubleSeconds(request.deadline - now));
}

absl::Status Admission::CheckDeadline(const Request& request, const Load& load,
                                      const EngineLoad& engine, absl::Time now) {
  if (request.deadline == absl::InfiniteFuture() || engine.idle()) return absl::OkStatus();
  const Estimate end = engine.EndOf(request.priority, request.client, load);
  const double left = absl::ToDoubleSeconds(request.deadline - now);
  const double late = end.at_least * kMargin - left;
  return late <= 0 ? absl::OkStatus() : Late(late, end.seconds, left);
}

absl::Status Admission::CheckQueue(const Request& request, const Load& load,
                                   const EngineLoad& engine) const {
  const QueueBounds::Bound bound = bounds_.ExceededWith(engine.waiting, load);
  if (bound == QueueBounds::Bound::kNone || !QueueBounds::WouldGiveWay(engine.waiting, request)) {
    return absl::OkStatus();
  }
  const absl::Duration retry = RetryAfter(engine.EstimatedWait(request.priority, request.client));
  if (bound == QueueBounds::Bound::kRequests) {
    return Refusal(
        ShedReason::kQueueRequests,
        absl::StrCat("the queue is full: ", bounds_.max_requests(), " requests are waiting"),
        retry);
  }
  return Refusal(ShedReason::kQueueTokens,
                 absl::StrCat("the queue is full: ", engine.waiting.total().prompt_tokens,
                              " prompt tokens are waiting of at most ", bounds_.max_tokens()),
                 retry);
}

}  // namespace winnow
