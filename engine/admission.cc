#include "engine/admission.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "engine/refusal.h"
#include "engine/request_check.h"
#include "engine/waiting_queue.h"

namespace winnow {
namespace {

/// What estimates are multiplied by before they are compared with a deadline.
constexpr double kDeadlineMargin = 1.2;
/// Bounds of the times to retry after.
constexpr absl::Duration kMinRetry = absl::Milliseconds(100);
constexpr absl::Duration kMaxRetry = absl::Minutes(1);

absl::Duration RetryAfter(double seconds) {
  return std::clamp(absl::Seconds(seconds), kMinRetry, kMaxRetry);
}

}  // namespace

RequestLoad& RequestLoad::operator+=(const RequestLoad& other) {
  requests += other.requests;
  sequences += other.sequences;
  prompt_tokens += other.prompt_tokens;
  decode_tokens += other.decode_tokens;
  return *this;
}

RequestLoad& RequestLoad::operator-=(const RequestLoad& other) { return *this += other * -1; }

RequestLoad RequestLoad::operator*(double factor) const {
  return {requests * factor, sequences * factor, prompt_tokens * factor, decode_tokens * factor};
}

double RequestLoad::service() const {
  return prompt_tokens * kPromptTokenService + decode_tokens * kDecodeTokenService;
}

absl::Status Admission::Check(const Request& request, absl::Time now) const {
  const RequestLoad load = LoadOf(request);
  const RequestLoad ahead = Ahead(request.priority, request.client, load);
  double step_seconds = 0;
  const double wait = WaitSeconds(ahead, &step_seconds);
  if (FullFor(load)) {
    Admission with = *this;
    with.Add(request, load);
    const Lane lane = with.GivesWay(request);
    if (lane.priority == request.priority && lane.client == request.client) {
      const bool requests = waiting_.requests + 1 > options_.max_waiting_requests;
      return Refusal(requests ? ShedReason::kQueueRequests : ShedReason::kQueueTokens,
                     requests ? absl::StrCat("the queue is full: ", options_.max_waiting_requests,
                                             " requests are waiting")
                              : absl::StrCat("the queue is full: ", waiting_.prompt_tokens,
                                             " prompt tokens are waiting of at most ",
                                             options_.max_waiting_tokens),
                     RetryAfter(wait));
    }
  }
  const bool idle = running_.sequences == 0 && waiting_.requests == 0;
  if (request.deadline == absl::InfiniteFuture() || idle || !costs_.known()) {
    return absl::OkStatus();
  }
  const double finish = wait + costs_.PrefillSeconds(load.prompt_tokens) +
                        load.decode_tokens / load.sequences * step_seconds;
  const double left = absl::ToDoubleSeconds(request.deadline - now);
  const double late = finish * kDeadlineMargin - left;
  if (late <= 0) return absl::OkStatus();
  return Refusal(ShedReason::kDeadline,
                 absl::StrCat("the request would take about ", finish,
                              " s, most of all in the queue; its deadline is in ", left, " s"),
                 RetryAfter(late));
}

bool Admission::FullFor(const RequestLoad& load) const {
  return waiting_.requests > 0 &&
         (waiting_.requests + 1 > options_.max_waiting_requests ||
          waiting_.prompt_tokens + load.prompt_tokens > options_.max_waiting_tokens);
}

bool Admission::Overfull() const {
  return waiting_.requests > options_.max_waiting_requests ||
         (waiting_.requests > 1 && waiting_.prompt_tokens > options_.max_waiting_tokens);
}

Admission::Lane Admission::GivesWay(const Request& newcomer) const {
  const auto& [priority, clients] = *levels_.rbegin();
  const auto most = std::ranges::max_element(clients, [&](const auto& a, const auto& b) {
    const auto rank = [&](const auto& client) {
      return std::pair(client.second.requests,
                       priority == newcomer.priority && client.first == newcomer.client);
    };
    return rank(a) < rank(b);
  });
  return {priority, most->first};
}

RequestLoad Admission::LoadOf(const Request& request) const {
  const double n = request.n;
  return {1, n, static_cast<double>(request.prompt_tokens.size()),
          n * costs_.ExpectedTokens(request, LongestSequence(request, options_) -
                                                 static_cast<int>(request.prompt_tokens.size()))};
}

void Admission::Add(const Request& request, const RequestLoad& load) {
  levels_[request.priority][request.client] += load;
  waiting_ += load;
}

void Admission::Remove(const Request& request, const RequestLoad& load) {
  const auto level = levels_.find(request.priority);
  const auto client = level->second.find(request.client);
  client->second -= load;
  waiting_ -= load;
  if (client->second.requests == 0) level->second.erase(client);
  if (level->second.empty()) levels_.erase(level);
  if (levels_.empty()) waiting_ = {};  // no rest of rounding
}

absl::Duration Admission::EstimatedWait(int priority, const std::string& client) const {
  double step_seconds = 0;
  return absl::Seconds(WaitSeconds(Ahead(priority, client, {}), &step_seconds));
}

RequestLoad Admission::Ahead(int priority, const std::string& client,
                             const RequestLoad& own) const {
  RequestLoad ahead;
  for (const auto& [level, clients] : levels_) {
    if (level > priority) break;
    const auto found = clients.find(client);
    const RequestLoad before = found == clients.end() ? RequestLoad{} : found->second;
    const double share = before.service() + own.service();
    for (const auto& [name, load] : clients) {
      const bool all = level < priority || name == client || load.service() <= share;
      ahead += all ? load : load * (share / load.service());
    }
  }
  return ahead;
}

// Until a request is started that has `ahead` before it; also the time of a step by then.
double Admission::WaitSeconds(const RequestLoad& ahead, double* step_seconds) const {
  const double running = running_.sequences;
  const double beside = std::min(ahead.sequences, static_cast<double>(running_.free_slots));
  const double concurrent = std::max(1.0, running + beside + (running_.free_slots > 0 ? 1 : 0));
  *step_seconds = costs_.DecodeSeconds(concurrent);
  const double turns = std::max(0.0, ahead.sequences + 1 - running_.free_slots);
  const double mean_tokens =
      (running_.decode_tokens + ahead.decode_tokens) / std::max(1.0, running + ahead.sequences);
  return costs_.PrefillSeconds(static_cast<double>(running_.pending_prompt_tokens) +
                               ahead.prompt_tokens) +
         turns * mean_tokens * *step_seconds / concurrent;
}

}  // namespace winnow
