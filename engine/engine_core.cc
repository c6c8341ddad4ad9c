#include "engine/engine_core.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/attention_accounting.h"
#include "engine/base/check.h"
#include "engine/scheduling/admission.h"

namespace winnow {

EngineCore::EngineCore(const EngineOptions& options, ForwardPass& forward, BlockMemory& memory,
                       const Tokenizer& tokenizer, EngineObserver& observer, Clock clock)
    : options_(options),
      forward_(forward),
      tokenizer_(tokenizer),
      observer_(observer),
      clock_(std::move(clock)),
      store_(
          options.kv_blocks * forward.attention_shape().groups(), options.block_tokens,
          {forward.attention_shape().group_windows, options.max_step_tokens, options.block_tokens},
          memory, options.host_slots),
      scheduler_(options, store_),
      bounds_(options),
      load_(options),
      step_builder_(forward.attention_shape()),
      seeds_(std::random_device{}()) {}

EngineCore::~EngineCore() { WINNOW_CHECK(requests_.empty()); }

void EngineCore::Submit(Request request, RequestSink* sink, absl::Time submitted) {
  const absl::Time now = clock_();
  const Load load = load_.forecast.LoadOf(request, KnownTokens(request));
  const absl::Status in_time = Admission::CheckDeadline(request, load, load_, now);
  const double seconds = absl::ToDoubleSeconds(request.deadline - submitted);
  ActiveRequest& active = requests_.Add(std::make_unique<ActiveRequest>(
      std::move(request), sink, submitted, load, arrivals_++, seeds_(), options_, tokenizer_));
  for (const auto& sequence : active.sequences()) {
    sequence->set_claims_all(load_.forecast.ClaimsAll(load, seconds));
  }
  load_.waiting.Add(active.request(), load);
  scheduler_.Add(active.first());
  if (!healthy_) return End(active, absl::UnavailableError("the device has failed"));
  if (!in_time.ok()) return End(active, in_time);
  ShedOverflow(active.request());
}

// Ends waiting requests until no more wait than may; the newcomer's own end ends it too.
void EngineCore::ShedOverflow(const Request& newcomer) {
  const uint64_t id = newcomer.id;
  while (requests_.Find(id) != nullptr && bounds_.Exceeded(load_.waiting)) {
    const QueueBounds::Owner owner = QueueBounds::GivesWay(load_.waiting, newcomer);
    Shed(*requests_.YoungestWaiting(owner.priority, owner.client), ShedReason::kDisplaced,
         "the queue is full, and others have precedence");
  }
}

// Of its prompt, tokens that the prefix cache has; at least one is computed, for the logits.
int EngineCore::KnownTokens(const Request& request) const {
  const std::span<const int32_t> prompt = request.prompt_tokens;
  return store_.KnownTokens(prompt.first(prompt.size() - 1), request.cache_salt);
}

void EngineCore::Cancel(uint64_t request_id) {
  ActiveRequest* active = requests_.Find(request_id);
  if (active != nullptr) End(*active, absl::CancelledError("the request was cancelled"));
}

void EngineCore::EndAll(const absl::Status& status) {
  for (ActiveRequest* active : requests_.all()) End(*active, status);
}

absl::Time EngineCore::NextDeadline() const {
  return requests_.empty() ? absl::InfiniteFuture()
                           : std::min(drain_limit_, requests_.NextDeadline());
}

bool EngineCore::Step(const std::function<void()>& publish) {
  ended_.clear();
  in_step_ = true;
  const bool worked = ComputeStep();
  in_step_ = false;
  NoteLoad();
  publish();
  HandDeliveriesOver();
  return worked;
}

bool EngineCore::ComputeStep() {
  EndLate();
  for (ActiveRequest* active : requests_.all()) active->NotePauses();
  Draft();

  const absl::Time begin = clock_();
  const int64_t fetched_before = store_.host_traffic().fetched;
  const Schedule schedule = scheduler_.Form(load_.forecast, begin);
  const bool fetches = store_.host_traffic().fetched > fetched_before;
  blocked_priority_ = schedule.blocked_priority;
#ifndef NDEBUG
  CheckInvariants();
#endif
  NoteScheduled(schedule, begin);
  if (schedule.spans.empty()) return false;
  StepStats stats;
  for (const Span& span : schedule.spans) {
    (span.decode ? stats.decode_tokens : stats.prefill_tokens) += span.rows();
  }
  step_tokens_.store({stats.prefill_tokens, stats.decode_tokens}, std::memory_order_relaxed);
  const StepWork work(schedule.spans);
  step_builder_.Build(schedule.spans);

  const absl::Time scheduled = clock_();
  absl::Status status = Compute();
  const absl::Time computed = clock_();
  if (status.ok()) {
    NoteTraffic(schedule.spans, forward_, stats);
    NoteProbes(step_builder_, probed_, stats);
    status = HandOut(schedule.spans);
  }
  if (!status.ok()) Fail(status);

  stats.sequences = static_cast<int>(schedule.spans.size());
  stats.schedule_seconds = absl::ToDoubleSeconds(scheduled - begin);
  stats.forward_seconds = absl::ToDoubleSeconds(computed - scheduled);
  const absl::Time end = clock_();
  stats.sample_seconds = absl::ToDoubleSeconds(end - computed);
  // What the host tier gives back takes time, too, which says nothing of steps to come.
  if (healthy_ && !fetches) load_.forecast.NoteStep(work, absl::ToDoubleSeconds(end - begin));
  observer_.OnStep(stats);
  return true;
}

// Ends what has expired, and drops waiting requests that can't end in time any more: what they cost
// would be lost.
void EngineCore::EndLate() {
  const absl::Time now = clock_();
  if (now >= drain_limit_) return EndAll(absl::UnavailableError("the server is shutting down"));
  std::map<int, Load> running;  // by priority, down to it
  for (ActiveRequest* active : requests_.all()) {
    if (now >= active->request().deadline) {
      End(*active, absl::DeadlineExceededError("the request's deadline has passed"));
    } else if (!active->started() && Overdue(*active, running, now)) {
      Shed(*active, ShedReason::kOverdue, "the request's deadline has come out of reach");
    }
  }
}

// What the prefix cache has of its prompt is looked up if anything hangs on it.
bool EngineCore::Overdue(const ActiveRequest& waiting, std::map<int, Load>& running,
                         absl::Time now) const {
  const Request& request = waiting.request();
  if (request.deadline == absl::InfiniteFuture()) return false;
  const int priority = waiting.first().priority();
  if (!running.contains(priority)) {
    running[priority] = load_.forecast.LoadDownTo(priority, scheduler_.running());
  }
  const Load& before = running[priority];
  const auto with_known = [&](int known) {
    return load_.forecast.Overdue(waiting.first(), known, before, now);
  };
  return with_known(0) && with_known(KnownTokens(request));
}

void EngineCore::Draft() {
  if (drafter_ == nullptr) return;
  for (Sequence* sequence : scheduler_.running()) {
    if (sequence->decoding() && !sequence->paused()) {
      sequence->SetDrafts(drafter_->Draft(*sequence));
    }
  }
}

void EngineCore::NoteScheduled(const Schedule& schedule, absl::Time now) {
  for (const Sequence* sequence : schedule.started) {
    ActiveRequest& active = requests_.Of(*sequence);
    active.NoteStart(sequence->computed(), now);
    load_.waiting.Remove(active.request(), active.load());
  }
  for (const Sequence* sequence : schedule.preempted) {
    requests_.Of(*sequence).NotePreemption();
    observer_.OnPreempted();
  }
}

// Computes the step that was built.
absl::Status EngineCore::Compute() {
  const StepBatch& batch = step_builder_.batch();
  chosen_.resize(step_builder_.choices().size());
  probed_.resize(batch.recall_probes.size());
  const bool described = std::ranges::any_of(
      step_builder_.choices(), [](const TokenChoice& choice) { return choice.alternatives >= 0; });
  descriptions_.assign(described ? chosen_.size() : 0, {});
  return forward_.ForwardAndChoose(batch, step_builder_.choices(), chosen_, descriptions_, probed_);
}

// Hands out what the step computed. An error means that the device failed.
absl::Status EngineCore::HandOut(std::span<const Span> spans) {
  NextTokens left = {chosen_, descriptions_};
  for (const Span& span : spans) {
    const auto rows = static_cast<size_t>(span.logit_rows());
    const size_t count = rows == 0 ? 0 : rows + span.sequence->forks().size();
    const NextTokens next = left.Sub(0, count);
    left = left.Sub(count, left.choices.size() - count);
    if (absl::Status status = HandOut(span, next); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status EngineCore::HandOut(const Span& span, const NextTokens& next) {
  Sequence& sequence = *span.sequence;
  // Its request may have ended with an error in another continuation of this step.
  if (sequence.state() == Sequence::State::kFinished) return absl::OkStatus();
  scheduler_.NoteComputed(span);
  if (next.choices.empty()) return absl::OkStatus();

  ActiveRequest& active = requests_.Of(sequence);
  const std::vector<Sequence*> forks(sequence.forks().begin(), sequence.forks().end());
  if (absl::Status status = scheduler_.Fork(sequence); !status.ok()) return status;
  const size_t own = next.choices.size() - forks.size();
  absl::Status accepted = Accept(active, sequence, next.Sub(0, own));
  for (size_t i = 0; i < forks.size() && accepted.ok(); ++i) {
    accepted = Accept(active, *forks[i], next.Sub(own + i, 1));
  }
  if (!accepted.ok() || active.complete()) End(active, accepted);
  return absl::OkStatus();
}

// Gives a sequence its next tokens. An error concerns this request only.
absl::Status EngineCore::Accept(ActiveRequest& active, Sequence& sequence, const NextTokens& next) {
  absl::StatusOr<Output> output = sequence.Accept(next.choices, next.descriptions);
  if (!output.ok()) return output.status();
  scheduler_.NoteAccepted(sequence, static_cast<int>(output->tokens.size()));
  if (output->finish_reason) {
    scheduler_.Remove(sequence);
    load_.forecast.NoteEnd(sequence);
  }
  deliveries_.push_back(
      [&active, &sequence, output = *std::move(output), now = clock_()]() mutable {
        active.Deliver(sequence, std::move(output), now);
      });
  return absl::OkStatus();
}

void EngineCore::End(ActiveRequest& active, const absl::Status& status) {
  if (!active.started()) load_.waiting.Remove(active.request(), active.load());
  std::vector<Sequence*> aborted;
  for (const auto& sequence : active.sequences()) {
    if (sequence->state() == Sequence::State::kFinished) continue;
    scheduler_.Remove(*sequence);
    aborted.push_back(sequence.get());
  }
  ended_.push_back(requests_.Remove(active));
  deliveries_.push_back([this, &active, status, aborted = std::move(aborted), now = clock_()] {
    for (Sequence* sequence : aborted) active.Abort(*sequence);
    observer_.OnFinished(active.Conclude(status, now));
    active.Finish();
  });
  if (!in_step_) HandDeliveriesOver();
}

void EngineCore::HandDeliveriesOver() {
  for (const auto& deliver : std::exchange(deliveries_, {})) deliver();
}

void EngineCore::Fail(const absl::Status& status) {
  healthy_ = false;
  EndAll(absl::UnavailableError(
      absl::StrCat("the device has failed: ", std::string(status.message()))));
}

void EngineCore::Shed(ActiveRequest& active, ShedReason reason, const std::string& message) {
  const Request& request = active.request();
  End(active, Refusal(reason, message, load_.EstimatedWait(request.priority, request.client)));
}

void EngineCore::NoteLoad() {
  RunningLoad& running = load_.running = {};
  for (const Sequence* sequence : scheduler_.running()) {
    running.Add(sequence->priority(), sequence->request().client, load_.forecast.LoadOf(*sequence));
  }
  running.blocked_priority = blocked_priority_;

  EngineGauges& gauges = gauges_ = {};
  const Load& waiting = load_.waiting.total();
  gauges.waiting_requests = static_cast<int>(waiting.requests);
  gauges.running_requests = requests_.size() - gauges.waiting_requests;
  gauges.waiting_prompt_tokens = static_cast<int>(waiting.prompt_tokens);
  gauges.estimated_wait_seconds = absl::ToDoubleSeconds(load_.QueueWait());
  gauges.kv_blocks_used = store_.used_blocks();
  gauges.kv_blocks_total = store_.total_blocks();
  gauges.host_slots_used = store_.host_tier().used_slots();
  gauges.host_slots_total = store_.host_tier().total_slots();
  gauges.host_traffic = store_.host_traffic();
}

}  // namespace winnow
