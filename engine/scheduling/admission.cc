#include "engine/scheduling/admission.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "engine/request/refusal.h"
#include "engine/request/request_check.h"
#include "engine/scheduling/waiting_queue.h"

namespace winnow {
namespace {

/// What estimates are multiplied by before they are compared with a deadline: the request's own,
/// and the average one's, which stands for longer ones too.
constexpr double kDeadlineMargin = 1.1;
constexpr double kAverageMargin = 1.5;
/// What a request that came still counts in the average after the next one.
constexpr double kOfferedMemory = 0.99;
/// Clients that came within this time have places kept, if there are not more of them than that.
constexpr absl::Duration kLately = absl::Seconds(15);
constexpr size_t kMaxLateClients = 1024;
constexpr double kKeptForEach = 2;
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

void Admission::NoteOffered(const Request& request, absl::Time now) {
  if (came_.size() >= kMaxLateClients) {
    std::erase_if(came_, [&](const auto& entry) { return entry.second < now - kLately; });
  }
  if (came_.size() < kMaxLateClients) came_[request.client] = now;
  if (request.deadline == absl::InfiniteFuture() || !costs_.known()) return;
  RequestLoad load = LoadOf(request);
  if (request.prompt_tokens.empty() && offered_.weight > 0) {
    load.prompt_tokens = offered_.prompt_tokens / offered_.weight;
  }
  const double tokens = load.decode_tokens / load.sequences;
  const double seconds = absl::ToDoubleSeconds(request.deadline - now);
  const Pace alone = {0, costs_.DecodeSeconds(load.sequences)};
  if (FinishSeconds(alone, load.prompt_tokens, tokens) > seconds) return;
  for (double* sum :
       {&offered_.weight, &offered_.prompt_tokens, &offered_.tokens, &offered_.seconds}) {
    *sum *= kOfferedMemory;
  }
  offered_.weight += load.decode_tokens;
  offered_.prompt_tokens += load.decode_tokens * load.prompt_tokens;
  offered_.tokens += load.decode_tokens * tokens;
  offered_.seconds += load.decode_tokens * seconds;
}

absl::Status Admission::Check(const Request& request, absl::Time now) const {
  const RequestLoad load = LoadOf(request);
  RequestLoad ahead = Ahead(request.priority, request.client, load);
  ahead += KeptForOthers(request.client, now);
  const Pace pace = PaceOf(request.priority, ahead);
  if (FullFor(load) && WouldGiveWay(request)) {
    const bool requests = waiting_.requests + 1 > options_.max_waiting_requests;
    return Refusal(requests ? ShedReason::kQueueRequests : ShedReason::kQueueTokens,
                   requests ? absl::StrCat("the queue is full: ", options_.max_waiting_requests,
                                           " requests are waiting")
                            : absl::StrCat("the queue is full: ", waiting_.prompt_tokens,
                                           " prompt tokens are waiting of at most ",
                                           options_.max_waiting_tokens),
                   RetryAfter(pace.wait_seconds));
  }
  const bool idle = running_.levels.empty() && waiting_.requests == 0;
  if (request.deadline == absl::InfiniteFuture() || idle || !costs_.known()) {
    return absl::OkStatus();
  }
  const double finish =
      FinishSeconds(pace, load.prompt_tokens, load.decode_tokens / load.sequences);
  const double left = absl::ToDoubleSeconds(request.deadline - now);
  double late = finish * kDeadlineMargin - left;
  if (offered_.weight > 0) {
    const double average = FinishSeconds(pace, offered_.prompt_tokens / offered_.weight,
                                         offered_.tokens / offered_.weight);
    late = std::max(late, average * kAverageMargin - offered_.seconds / offered_.weight);
  }
  if (late <= 0) return absl::OkStatus();
  return Refusal(
      ShedReason::kDeadline,
      absl::StrCat("too busy to end requests within their deadlines: this one would take "
                   "about ",
                   finish, " s of ", left, " s"),
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

// Whether GivesWay would name a newcomer if that waited, too. REQUIRES: something waits.
bool Admission::WouldGiveWay(const Request& newcomer) const {
  const auto& [priority, clients] = *levels_.rbegin();
  if (newcomer.priority != priority) return newcomer.priority > priority;
  const auto own = clients.find(newcomer.client);
  const double requests = 1 + (own == clients.end() ? 0 : own->second.requests);
  return std::ranges::all_of(clients, [&](const auto& client) {
    return client.first == newcomer.client || client.second.requests <= requests;
  });
}

Admission::Lane Admission::GivesWay(const Request& newcomer) const {
  const auto& [priority, clients] = *levels_.rbegin();
  const bool same_level = priority == newcomer.priority;
  const auto most = std::ranges::max_element(clients, [&](const auto& a, const auto& b) {
    const auto rank = [&](const auto& client) {
      return std::pair(client.second.requests, same_level && client.first == newcomer.client);
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
  return absl::Seconds(PaceOf(priority, Ahead(priority, client, {})).wait_seconds);
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

RequestLoad Admission::KeptForOthers(const std::string& client, absl::Time now) const {
  if (offered_.weight == 0) return {};
  std::map<std::string, double> sequences = running_.client_sequences;
  for (const auto& [priority, clients] : levels_) {
    for (const auto& [name, load] : clients) sequences[name] += load.sequences;
  }
  const double own = sequences[client];
  const auto others = static_cast<double>(std::ranges::count_if(came_, [&](const auto& entry) {
    return entry.second >= now - kLately && sequences[entry.first] < own;
  }));
  return RequestLoad{1, 1, offered_.prompt_tokens / offered_.weight,
                     offered_.tokens / offered_.weight} *
         std::min(kKeptForEach * others, own);
}

// Of a request that has `ahead` before it in the queue.
Admission::Pace Admission::PaceOf(int priority, const RequestLoad& ahead) const {
  RequestLoad running;
  for (const auto& [level, load] : running_.levels) {
    if (level <= priority) running += load;
  }
  const double free_slots = running_.stands.has_value() && *running_.stands <= priority
                                ? 0
                                : options_.max_running_sequences - running.sequences;
  const double beside = std::min(ahead.sequences, free_slots);
  const double concurrent =
      std::max(1.0, running.sequences + beside + (free_slots > beside ? 1 : 0));
  const double turns = std::max(0.0, ahead.sequences + 1 - free_slots);
  const double mean_tokens = (running.decode_tokens + ahead.decode_tokens) /
                             std::max(1.0, running.sequences + ahead.sequences);
  const double prompts =
      running.prompt_tokens + ahead.prompt_tokens * beside / std::max(1.0, ahead.sequences);
  const double step = costs_.LoadedDecodeSeconds(concurrent, priority);
  return {costs_.PrefillSeconds(prompts) + turns * mean_tokens * step / concurrent, step};
}

double Admission::FinishSeconds(const Pace& pace, double prompt_tokens, double tokens) const {
  return pace.wait_seconds + costs_.PrefillSeconds(prompt_tokens) + tokens * pace.step_seconds;
}

}  // namespace winnow
