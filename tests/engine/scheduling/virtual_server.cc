#include "tests/engine/scheduling/virtual_server.h"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "engine/base/check.h"

namespace winnow {

absl::Status TimedModel::Forward(const StepBatch& batch, std::span<float>, std::span<ProbedMass>) {
  double seconds = costs_.base;
  for (size_t s = 0; s + 1 < batch.query_begin.size(); ++s) {
    const auto begin = static_cast<size_t>(batch.query_begin[s]);
    const auto end = static_cast<size_t>(batch.query_begin[s + 1]);
    const bool decode = end - begin == 1;
    const double rows = static_cast<double>(end - begin);
    const double context = rows * (batch.positions[begin] + 1 + (rows - 1) / 2);
    seconds += rows * (decode ? costs_.decode_row : costs_.prompt_row) +
               context * (decode ? costs_.decode_context : costs_.prompt_context);
  }
  if (steps_++ < costs_.cold_steps) seconds *= costs_.cold_factor;
  if (costs_.noise > 0) {
    const double s = costs_.noise;
    seconds *= std::lognormal_distribution<double>(-s * s / 2, s)(random_);
  }
  now_ += absl::Seconds(seconds);
  return absl::OkStatus();
}

absl::Status TimedModel::ForwardAndChoose(const StepBatch& batch,
                                          std::span<const TokenChoice> choices,
                                          std::span<int32_t> tokens, std::span<TokenDescription>,
                                          std::span<ProbedMass> probed) {
  for (size_t i = 0; i < choices.size(); ++i) {
    const bool ends = choices[i].uniform < static_cast<double>(choices[i].min_p);
    tokens[i] = ends ? CoreBench::kVocab - 1 : 0;
  }
  return Forward(batch, {}, probed);
}

VirtualServer::VirtualServer(const EngineOptions& options, const StepModel& costs)
    : options_(options),
      model_(costs, &now_),
      core_(options, model_, model_, tokenizer_, observer_, [this] { return now_; }),
      mailbox_(options) {}

void VirtualServer::Run(std::vector<Arrival> arrivals) {
  arrivals_ = std::move(arrivals);
  fates_.resize(arrivals_.size());
  for (size_t i = 0; i < arrivals_.size(); ++i) {
    arrivals_[i].request.id = i;
    sinks_.emplace_back(this, i);
  }
  while (Iterate()) continue;
}

bool VirtualServer::Iterate() {
  while (next_ < arrivals_.size() && arrivals_[next_].at <= now_) Offer(next_++);
  for (Submission& submission : mailbox_.Collect(absl::InfinitePast()).submissions) {
    core_.Submit(std::move(submission.request), submission.sink, submission.submitted);
  }
  const bool worked = core_.Step();
  mailbox_.Publish(core_.load());
  for (const size_t arrival : std::exchange(dropped_, {})) Ask(arrival);
  if (worked) return true;
  absl::Time next = core_.NextDeadline();
  if (next_ < arrivals_.size()) next = std::min(next, arrivals_[next_].at);
  if (next == absl::InfiniteFuture()) return false;
  now_ = std::max(now_, next);
  return true;
}

void VirtualServer::Offer(size_t arrival) {
  const auto& [at, request] = arrivals_[arrival];
  Request outline = request;
  outline.prompt_tokens.clear();
  absl::Status status = mailbox_.CheckOutline(outline, at);
  if (status.ok()) status = mailbox_.Submit(request, &sinks_[arrival], at);
  if (status.ok()) return;
  Refused(arrival, status);
  if (fates_[arrival].reason == ShedReason::kDeadline) Ask(arrival);
}

void VirtualServer::Refused(size_t arrival, const absl::Status& status) {
  const auto details = DetailsOf(status);
  WINNOW_CHECK(details.has_value());
  fates_[arrival] = {Fate::Kind::kRefused, details->reason, now_};
}

void VirtualServer::Sink::OnFinished(RequestSummary summary) {
  Fate& fate = server_.fates_[arrival_];
  if (DetailsOf(summary.status).has_value()) {
    server_.Refused(arrival_, summary.status);
    if (*fate.reason != ShedReason::kDisplaced) server_.dropped_.push_back(arrival_);
    return;
  }
  fate = {summary.status.ok() ? Fate::Kind::kCompleted : Fate::Kind::kExpired, std::nullopt,
          server_.now_};
}

std::vector<size_t> VirtualServer::Present() const {
  std::vector<size_t> present;
  for (size_t i = 0; i < next_; ++i) {
    if (fates_[i].kind == Fate::Kind::kPending) present.push_back(i);
  }
  return present;
}

// Forks: the child lets the request in and goes on until it knows.
void VirtualServer::Ask(size_t arrival) {
  if (!wants_probe_ || !wants_probe_()) return;
  const std::vector<size_t> present = Present();
  int pipe_ends[2];
  WINNOW_CHECK(pipe(pipe_ends) == 0);
  const pid_t child = fork();
  WINNOW_CHECK(child >= 0);
  if (child == 0) LetIn(arrival, present, pipe_ends[1]);
  close(pipe_ends[1]);
  std::vector<int64_t> numbers;
  int64_t number;
  while (read(pipe_ends[0], &number, sizeof(number)) == sizeof(number)) numbers.push_back(number);
  close(pipe_ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  WINNOW_CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0 && !numbers.empty());
  Answer answer = {arrival, absl::InfiniteFuture(), present, {}};
  if (numbers[0] >= 0) answer.end = absl::FromUnixNanos(numbers[0]);
  answer.late.assign(numbers.begin() + 1, numbers.end());
  answers_.push_back(std::move(answer));
}

void VirtualServer::LetIn(size_t arrival, const std::vector<size_t>& present, int pipe) {
  wants_probe_ = nullptr;
  const absl::Time deadline = arrivals_[arrival].request.deadline;
  Request request = arrivals_[arrival].request;
  request.deadline = absl::InfiniteFuture();  // or the engine would drop it, too
  fates_[arrival] = {};
  for (Submission& submission : mailbox_.Collect(absl::InfinitePast()).submissions) {
    core_.Submit(std::move(submission.request), submission.sink, submission.submitted);
  }
  core_.Submit(std::move(request), &sinks_[arrival], now_);
  const auto over = [&](size_t i) { return fates_[i].kind != Fate::Kind::kPending; };
  const auto knows = [&] {
    return (over(arrival) || now_ > deadline) && std::ranges::all_of(present, over);
  };
  while (!knows() && Iterate()) continue;
  const bool in_time = over(arrival) && fates_[arrival].end <= deadline;
  std::vector<int64_t> numbers = {in_time ? absl::ToUnixNanos(fates_[arrival].end) : -1};
  for (const size_t i : present) {
    if (fates_[i].kind != Fate::Kind::kCompleted) numbers.push_back(static_cast<int64_t>(i));
  }
  const size_t bytes = numbers.size() * sizeof(int64_t);
  WINNOW_CHECK(write(pipe, numbers.data(), bytes) == static_cast<ssize_t>(bytes));
  _exit(0);
}

std::vector<Probe> VirtualServer::Probes() const {
  std::vector<Probe> probes;
  for (const Answer& answer : answers_) {
    const auto& [at, request] = arrivals_[answer.arrival];
    const auto harmed = std::ranges::count_if(
        answer.late, [&](size_t i) { return fates_[i].kind == Fate::Kind::kCompleted; });
    const bool in_time = answer.end != absl::InfiniteFuture();
    probes.push_back({.arrival = answer.arrival,
                      .used_seconds = in_time ? absl::ToDoubleSeconds(answer.end - at)
                                              : std::numeric_limits<double>::infinity(),
                      .left_seconds = absl::ToDoubleSeconds(request.deadline - at),
                      .harmed = static_cast<int>(harmed)});
  }
  return probes;
}

}  // namespace winnow
