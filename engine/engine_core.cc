#include "engine/engine_core.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/attention_accounting.h"
#include "engine/base/check.h"
#include "engine/request/request_check.h"
#include "engine/sequence/sequence.h"

namespace winnow {

/// A request with its sequences and what its summary will say.
struct EngineCore::ActiveRequest {
  Request request;
  RequestSink* sink = nullptr;
  absl::Time submitted;
  bool admitted = false;                             ///< a step has computed some of it
  RequestLoad load;                                  ///< what it counts in the queue until then
  std::vector<std::unique_ptr<Sequence>> sequences;  ///< [n]
  std::vector<absl::Time> last_token;                ///< [n]
  RequestSummary summary;

  bool Running() const {
    return std::ranges::any_of(sequences, [](const auto& sequence) {
      return sequence->state() == Sequence::State::kRunning;
    });
  }
};

EngineCore::EngineCore(const EngineOptions& options, ForwardPass& forward, BlockMemory& memory,
                       const Tokenizer& tokenizer, EngineObserver& observer, Clock clock)
    : options_(options),
      forward_(forward),
      tokenizer_(tokenizer),
      observer_(observer),
      clock_(std::move(clock)),
      store_(options.kv_blocks, options.block_tokens, memory),
      scheduler_(options, store_),
      admission_(options),
      step_builder_(forward.attention_shape()),
      seeds_(std::random_device{}()) {}

EngineCore::~EngineCore() { WINNOW_CHECK(requests_.empty()); }

void EngineCore::Submit(Request request, RequestSink* sink, absl::Time submitted) {
  auto active = std::make_unique<ActiveRequest>();
  active->request = std::move(request);
  active->sink = sink;
  active->submitted = submitted;
  const Request& kept = active->request;
  active->summary.prompt_tokens = static_cast<int>(kept.prompt_tokens.size());

  const uint64_t seed = kept.sampling.seed.value_or(seeds_());
  const int max_length = LongestSequence(kept, options_);
  const int64_t arrival = arrivals_++;
  for (int index = 0; index < kept.n; ++index) {
    active->sequences.push_back(std::make_unique<Sequence>(kept, tokenizer_, arrival, index, seed,
                                                           max_length, options_.recall));
  }
  active->last_token.resize(active->sequences.size());
  active->load = admission_.LoadOf(kept);
  admission_.Add(kept, active->load);

  // The first continuation computes the prompt, then the others fork from it.
  Sequence& first = *active->sequences.front();
  std::vector<Sequence*> forks;
  for (const auto& one : std::span(active->sequences).subspan(1)) forks.push_back(one.get());
  first.set_forks(std::move(forks));
  scheduler_.Add(first);
  const auto [entry, is_new] = requests_.emplace(kept.id, std::move(active));
  WINNOW_CHECK(is_new);
  if (!healthy_) return End(entry, absl::UnavailableError("the device has failed"));
  ShedOverflow(entry->second->request);
}

// Ends waiting requests until no more wait than may; the newcomer's own end ends it too.
void EngineCore::ShedOverflow(const Request& newcomer) {
  const uint64_t id = newcomer.id;
  while (requests_.contains(id) && admission_.Overfull()) {
    const Admission::Lane lane = admission_.GivesWay(newcomer);
    auto youngest = requests_.end();
    for (auto it = requests_.begin(); it != requests_.end(); ++it) {
      const ActiveRequest& active = *it->second;
      if (active.admitted || active.request.priority != lane.priority ||
          active.request.client != lane.client) {
        continue;
      }
      if (youngest == requests_.end() ||
          active.sequences.front()->arrival() > youngest->second->sequences.front()->arrival()) {
        youngest = it;
      }
    }
    Shed(youngest, ShedReason::kDisplaced, "the queue is full, and others have precedence");
  }
}

void EngineCore::Cancel(uint64_t request_id) {
  const auto entry = requests_.find(request_id);
  if (entry != requests_.end()) End(entry, absl::CancelledError("the request was cancelled"));
}

void EngineCore::EndAll(const absl::Status& status) {
  while (!requests_.empty()) End(requests_.begin(), status);
}

bool EngineCore::Step() {
  ended_.clear();
  EndExpired();
  EndOverdue();
  PauseSlowReaders();
  Draft();

  const absl::Time begin = clock_();
  const Schedule schedule = scheduler_.Form(
      [&](const Sequence& sequence, bool alone) { return MayStart(sequence, alone, begin); });
  stands_ = schedule.stands;
#ifndef NDEBUG
  CheckInvariants();
#endif
  NoteScheduled(schedule, begin);
  if (schedule.spans.empty()) {
    NoteLoad();
    return false;
  }
  StepStats stats;
  std::map<int, int> prefill_tokens;  // by priority
  for (const Span& span : schedule.spans) {
    (span.decode ? stats.decode_tokens : stats.prefill_tokens) += span.rows();
    if (!span.decode) prefill_tokens[span.sequence->priority()] += span.rows();
  }
  step_tokens_.store({stats.prefill_tokens, stats.decode_tokens}, std::memory_order_relaxed);
  step_builder_.Build(schedule.spans);
  const StepBatch& batch = step_builder_.batch();
  const size_t vocab = static_cast<size_t>(forward_.vocab());
  recalls_.resize(batch.recall_probes.size());
  chosen_.resize(step_builder_.choices().size());
  // Logits are large: they only leave the device when a request asks for their probabilities.
  const bool needs_logits = std::ranges::any_of(schedule.spans, [](const Span& span) {
    return span.logit_rows() > 0 && span.sequence->request().logprobs;
  });
  logits_.resize(needs_logits ? batch.logit_rows.size() * vocab : 0);

  const absl::Time scheduled = clock_();
  absl::Status status =
      forward_.ForwardAndChoose(batch, step_builder_.choices(), chosen_, logits_, recalls_);
  const absl::Time computed = clock_();
  if (status.ok()) {
    NoteTraffic(schedule.spans, forward_, stats);
    NoteRecalls(step_builder_, recalls_, stats);
  }
  std::span<const int32_t> chosen = chosen_;
  std::span<const float> logits = logits_;
  for (const Span& span : schedule.spans) {
    if (!status.ok()) break;
    const auto rows = static_cast<size_t>(span.logit_rows());
    const size_t choices = rows == 0 ? 0 : rows + span.sequence->forks().size();
    const size_t numbers = needs_logits ? rows * vocab : 0;
    const NextTokens next = {chosen.first(choices), logits.first(numbers)};
    chosen = chosen.subspan(choices);
    logits = logits.subspan(numbers);
    status = HandOut(span, next);
  }
  if (!status.ok()) Fail(status);

  stats.sequences = batch.sequences();
  stats.schedule_seconds = absl::ToDoubleSeconds(scheduled - begin);
  stats.forward_seconds = absl::ToDoubleSeconds(computed - scheduled);
  const absl::Time end = clock_();
  stats.sample_seconds = absl::ToDoubleSeconds(end - computed);
  if (healthy_) {
    admission_.mutable_costs().NoteStep(prefill_tokens, stats.decode_tokens,
                                        absl::ToDoubleSeconds(end - begin));
  }
  observer_.OnStep(stats);
  NoteLoad();
  return true;
}

absl::Time EngineCore::NextDeadline() const {
  if (requests_.empty()) return absl::InfiniteFuture();
  absl::Time next = drain_limit_;
  for (const auto& [id, active] : requests_) next = std::min(next, active->request.deadline);
  return next;
}

void EngineCore::EndExpired() {
  const absl::Time now = clock_();
  if (now >= drain_limit_) {
    EndAll(absl::UnavailableError("the server is shutting down"));
    return;
  }
  for (auto it = requests_.begin(); it != requests_.end();) {
    const auto entry = it++;
    if (now >= entry->second->request.deadline) {
      End(entry, absl::DeadlineExceededError("the request's deadline has passed"));
    }
  }
}

// Drops waiting requests that would be ended by their deadline even if they were started now: what
// they cost would be lost. When nothing runs before them they are let try.
void EngineCore::EndOverdue() {
  const StepCosts& costs = admission_.costs();
  if (!costs.known()) return;
  const absl::Time now = clock_();
  for (auto it = requests_.begin(); it != requests_.end();) {
    const auto entry = it++;
    const ActiveRequest& active = *entry->second;
    if (active.admitted || active.request.deadline == absl::InfiniteFuture()) continue;
    const Sequence& first = *active.sequences.front();
    const auto running = std::ranges::count_if(scheduler_.running(), [&](const Sequence* other) {
      return other->priority() <= first.priority();
    });
    const double seconds =
        costs.PrefillSeconds(active.load.prompt_tokens) +
        RemainingTokens(first) * costs.DecodeSeconds(static_cast<double>(running + 1));
    if (running == 0 || now + absl::Seconds(seconds) < active.request.deadline) continue;
    Shed(entry, ShedReason::kOverdue, "the request's deadline has come out of reach");
  }
}

// Expected tokens until the sequence's end.
double EngineCore::RemainingTokens(const Sequence& sequence) const {
  const int limit = sequence.max_length() - sequence.prompt_length();
  const double expected = admission_.costs().ExpectedTokens(sequence.request(), limit);
  return std::max(1.0, expected - sequence.generated());
}

// Whether a sequence would end in time if it were started now, unless it has been before, and would
// not keep a running one from that. All steps are taken to decode for as many sequences as would
// run then, after the prompts are computed. Sequences that will be late in any case hold up nobody,
// and those of lower priority none of a higher one.
bool EngineCore::MayStart(const Sequence& sequence, bool alone, absl::Time now) const {
  const StepCosts& costs = admission_.costs();
  const auto& running = scheduler_.running();
  const auto resting = [](const Sequence& s) { return s.paused() && s.decoding(); };
  const int priority = sequence.request().priority;  // promotion takes from nobody
  double prompts = 0;
  int sequences = 0;
  for (const Sequence* other : running) {
    if (resting(*other) || (alone && other->priority() > priority)) continue;
    if (!other->decoding()) prompts += other->pending();
    sequences += other->slots();
  }
  if (sequences == 0 || !costs.known()) return true;
  const double seconds_without = costs.PrefillSeconds(prompts);
  const double step_without = costs.DecodeSeconds(sequences);
  const double seconds = costs.PrefillSeconds(prompts + sequence.pending());
  const double step = costs.DecodeSeconds(sequences + sequence.slots());
  const auto in_time = [&](const Sequence& s, double prompt_seconds, double step_seconds) {
    return s.request().deadline == absl::InfiniteFuture() ||
           now + absl::Seconds(prompt_seconds + RemainingTokens(s) * step_seconds) <
               s.request().deadline;
  };
  return (sequence.started() || in_time(sequence, seconds, step)) &&
         std::ranges::all_of(running, [&](const Sequence* other) {
           return resting(*other) || other->priority() > priority ||
                  in_time(*other, seconds, step) || !in_time(*other, seconds_without, step_without);
         });
}

void EngineCore::PauseSlowReaders() {
  for (const auto& [id, active] : requests_) {
    const bool paused = !active->sink->HasRoom();
    for (const auto& sequence : active->sequences) sequence->set_paused(paused);
  }
}

void EngineCore::Draft() {
  if (drafter_ == nullptr) return;
  for (Sequence* sequence : scheduler_.running()) {
    if (sequence->decoding()) sequence->SetDrafts(drafter_->Draft(*sequence));
  }
}

void EngineCore::NoteScheduled(const Schedule& schedule, absl::Time now) {
  for (const Sequence* sequence : schedule.preempted) {
    ++requests_.at(sequence->request().id)->summary.preemptions;
    observer_.OnPreempted();
  }
  for (const Span& span : schedule.spans) {
    ActiveRequest& active = *requests_.at(span.sequence->request().id);
    if (std::exchange(active.admitted, true)) continue;
    admission_.Remove(active.request, active.load);
    active.summary.queue_seconds = absl::ToDoubleSeconds(now - active.submitted);
    active.summary.cached_tokens = span.begin;
  }
}

// Takes the step's result for one span. An error means that the device failed.
absl::Status EngineCore::HandOut(const Span& span, const NextTokens& next) {
  Sequence& sequence = *span.sequence;
  // Its request may have ended with an error in another continuation of this step.
  if (sequence.state() == Sequence::State::kFinished) return absl::OkStatus();
  scheduler_.NoteComputed(span);
  if (next.choices.empty()) return absl::OkStatus();

  const auto entry = requests_.find(sequence.request().id);
  ActiveRequest& active = *entry->second;
  const std::vector<Sequence*> forks(sequence.forks().begin(), sequence.forks().end());
  if (absl::Status status = scheduler_.Fork(sequence); !status.ok()) return status;
  const size_t own = next.choices.size() - forks.size();
  absl::Status taken = Take(active, sequence, {next.choices.first(own), next.logits});
  for (size_t i = 0; i < forks.size() && taken.ok(); ++i) {
    taken = Take(active, *forks[i], {next.choices.subspan(own + i, 1), next.logits});
  }

  if (!taken.ok()) {
    End(entry, taken);
  } else if (std::ranges::all_of(active.sequences, [](const auto& s) {
               return s->state() == Sequence::State::kFinished;
             })) {
    End(entry, absl::OkStatus());
  }
  return absl::OkStatus();
}

// Hands out a sequence's next tokens. An error concerns this request only.
absl::Status EngineCore::Take(ActiveRequest& active, Sequence& sequence, const NextTokens& next) {
  const bool first = sequence.generated() == 0;
  absl::StatusOr<Output> output = sequence.Accept(next.choices, next.logits);
  if (!output.ok()) return output.status();

  const absl::Time now = clock_();
  const auto tokens = static_cast<int>(output->tokens.size());
  absl::Time& last = active.last_token[static_cast<size_t>(sequence.index())];
  std::vector<double>& gaps = active.summary.itl_seconds;
  if (!first) gaps.push_back(absl::ToDoubleSeconds(now - last));
  gaps.insert(gaps.end(), static_cast<size_t>(tokens - 1), 0.0);  // they came together
  last = now;
  if (active.summary.generated_tokens == 0) {
    active.summary.ttft_seconds = absl::ToDoubleSeconds(now - active.submitted);
  }
  active.summary.generated_tokens += tokens;

  scheduler_.NoteAccepted(sequence, tokens);
  if (output->finish_reason) {
    scheduler_.Remove(sequence);
    admission_.mutable_costs().NoteEnd(active.request, sequence.generated(),
                                       sequence.max_length() - sequence.prompt_length());
  }
  active.sink->OnOutput(*std::move(output));
  return absl::OkStatus();
}

void EngineCore::End(Requests::iterator entry, const absl::Status& status) {
  std::unique_ptr<ActiveRequest> active = std::move(entry->second);
  requests_.erase(entry);
  if (!active->admitted) admission_.Remove(active->request, active->load);
  for (const auto& sequence : active->sequences) {
    if (sequence->state() == Sequence::State::kFinished) continue;
    scheduler_.Remove(*sequence);
    active->sink->OnOutput(sequence->Abort());
  }
  SparsitySummary& sparsity = active->summary.sparsity;
  sparsity.policy = active->request.attention;
  for (const auto& sequence : active->sequences) {
    const SequenceAttention& attention = sequence->attention();
    sparsity.traffic += attention.traffic();
    sparsity.recall_sum += attention.recall_sum();
    sparsity.recall_samples += attention.recall_samples();
    sparsity.fallbacks += attention.fallbacks();
  }
  active->summary.status = status;
  active->summary.total_seconds = absl::ToDoubleSeconds(clock_() - active->submitted);
  observer_.OnFinished(active->summary);
  active->sink->OnFinished(std::move(active->summary));
  ended_.push_back(std::move(active));
}

void EngineCore::Fail(const absl::Status& status) {
  healthy_ = false;
  EndAll(absl::UnavailableError(
      absl::StrCat("the device has failed: ", std::string(status.message()))));
}

void EngineCore::Shed(Requests::iterator entry, ShedReason reason, const std::string& message) {
  const Request& request = entry->second->request;
  End(entry, Refusal(reason, message, admission_.EstimatedWait(request.priority, request.client)));
}

void EngineCore::NoteLoad() {
  RunningLoad running;
  for (const Sequence* sequence : scheduler_.running()) {
    const double sequences = sequence->slots();
    running.levels[sequence->priority()] +=
        {0, sequences, static_cast<double>(sequence->decoding() ? 0 : sequence->pending()),
         sequences * (sequence->generated() + RemainingTokens(*sequence))};
  }
  for (const Sequence* sequence : scheduler_.running()) {
    running.client_sequences[sequence->request().client] += sequence->slots();
  }
  running.stands = stands_;
  admission_.SetRunning(std::move(running));

  EngineGauges& gauges = gauges_ = {};
  for (const auto& [id, active] : requests_) {
    ++(active->Running() ? gauges.running_requests : gauges.waiting_requests);
  }
  gauges.waiting_prompt_tokens = static_cast<int>(admission_.waiting().prompt_tokens);
  gauges.estimated_wait_seconds = absl::ToDoubleSeconds(admission_.EstimatedWait(0, ""));
  gauges.kv_blocks_used = store_.used_blocks();
  gauges.kv_blocks_total = store_.total_blocks();
  observer_.OnGauges(gauges);
}

}  // namespace winnow
