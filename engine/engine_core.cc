#include "engine/engine_core.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
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
  Load load;                                         ///< what it counts in the queue until then
  std::vector<std::unique_ptr<Sequence>> sequences;  ///< [n]
  std::vector<absl::Time> last_token;                ///< [n]
  RequestSummary summary;

  bool Running() const {
    return std::ranges::any_of(sequences, [](const auto& sequence) {
      return sequence->state() == Sequence::State::kRunning;
    });
  }
};

EngineCore::EngineCore(const EngineOptions& options, ForwardPass& forward,
                       const Tokenizer& tokenizer, EngineObserver& observer, Clock clock)
    : options_(options),
      forward_(forward),
      tokenizer_(tokenizer),
      observer_(observer),
      clock_(std::move(clock)),
      pool_(options.kv_blocks, options.block_tokens),
      scheduler_(options, pool_),
      bounds_(options),
      load_(options),
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
  active->load = load_.forecast.LoadOf(kept);
  load_.waiting.Add(kept, active->load);

  // The first continuation computes the prompt, then the others fork from it.
  Sequence& first = *active->sequences.front();
  first.set_forks(kept.n - 1);
  scheduler_.Add(first);
  const auto [entry, is_new] = requests_.emplace(kept.id, std::move(active));
  WINNOW_CHECK(is_new);
  if (!healthy_) return End(entry, absl::UnavailableError("the device has failed"));
  ShedOverflow(entry->second->request);
}

// Ends waiting requests until no more wait than may; the newcomer's own end ends it too.
void EngineCore::ShedOverflow(const Request& newcomer) {
  const uint64_t id = newcomer.id;
  while (requests_.contains(id) && bounds_.Exceeded(load_.waiting)) {
    const QueueBounds::Owner owner = QueueBounds::GivesWay(load_.waiting, newcomer);
    auto youngest = requests_.end();
    for (auto it = requests_.begin(); it != requests_.end(); ++it) {
      const ActiveRequest& active = *it->second;
      if (active.admitted || active.request.priority != owner.priority ||
          active.request.client != owner.client) {
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

  const absl::Time begin = clock_();
  const Schedule schedule = scheduler_.Form([&](const Sequence& sequence, bool alone) {
    return load_.forecast.MayStart(sequence, scheduler_.running(), alone, begin);
  });
#ifndef NDEBUG
  CheckInvariants();
#endif
  NoteScheduled(schedule, begin);
  if (schedule.chunks.empty()) {
    NoteLoad();
    return false;
  }
  StepStats stats;
  std::map<int, int> prefill_tokens;  // by priority
  for (const ScheduledChunk& chunk : schedule.chunks) {
    (chunk.decode ? stats.decode_tokens : stats.prefill_tokens) += chunk.count;
    if (!chunk.decode) prefill_tokens[chunk.sequence->priority()] += chunk.count;
  }
  step_tokens_.store({stats.prefill_tokens, stats.decode_tokens}, std::memory_order_relaxed);
  const StepBatch batch = step_builder_.Build(schedule.chunks);
  const size_t vocab = static_cast<size_t>(forward_.vocab());
  recalls_.resize(batch.recall_probes.size());
  Choose(schedule);
  // Logits are large: they only leave the device when a request asks for their probabilities.
  const bool needs_logits = std::ranges::any_of(schedule.chunks, [](const ScheduledChunk& chunk) {
    return chunk.wants_logits && chunk.sequence->request().logprobs;
  });
  logits_.resize(needs_logits ? batch.logit_rows.size() * vocab : 0);

  const absl::Time scheduled = clock_();
  absl::Status status = forward_.ForwardAndChoose(batch, choices_, chosen_, logits_, recalls_);
  const absl::Time computed = clock_();
  if (status.ok()) NoteAttention(schedule, stats);
  size_t row = 0;  // of the logits
  std::span<const int32_t> chosen = chosen_;
  for (const ScheduledChunk& chunk : schedule.chunks) {
    if (!status.ok()) break;
    NextTokens next;
    if (chunk.wants_logits) {
      const auto count = static_cast<size_t>(chunk.sequence->forks()) + 1;
      next.choices = chosen.first(count);
      chosen = chosen.subspan(count);
      if (needs_logits) next.logits = std::span(logits_).subspan(row * vocab, vocab);
      ++row;
    }
    status = HandOut(chunk, next);
  }
  if (!status.ok()) Fail(status);

  stats.sequences = batch.sequences();
  stats.schedule_seconds = absl::ToDoubleSeconds(scheduled - begin);
  stats.forward_seconds = absl::ToDoubleSeconds(computed - scheduled);
  const absl::Time end = clock_();
  stats.sample_seconds = absl::ToDoubleSeconds(end - computed);
  if (healthy_) {
    load_.forecast.mutable_costs().NoteStep(prefill_tokens, stats.decode_tokens,
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

// Drops waiting requests that can't end in time any more: what they cost would be lost.
void EngineCore::EndOverdue() {
  const absl::Time now = clock_();
  for (auto it = requests_.begin(); it != requests_.end();) {
    const auto entry = it++;
    const ActiveRequest& active = *entry->second;
    if (active.admitted ||
        !load_.forecast.Overdue(*active.sequences.front(), scheduler_.running(), now)) {
      continue;
    }
    Shed(entry, ShedReason::kOverdue, "the request's deadline has come out of reach");
  }
}

void EngineCore::PauseSlowReaders() {
  for (const auto& [id, active] : requests_) {
    const bool paused = !active->sink->HasRoom();
    for (const auto& sequence : active->sequences) sequence->set_paused(paused);
  }
}

void EngineCore::NoteScheduled(const Schedule& schedule, absl::Time now) {
  for (const Sequence* sequence : schedule.preempted) {
    ++requests_.at(sequence->request().id)->summary.preemptions;
    observer_.OnPreempted();
  }
  for (const ScheduledChunk& chunk : schedule.chunks) {
    ActiveRequest& active = *requests_.at(chunk.sequence->request().id);
    if (std::exchange(active.admitted, true)) continue;
    load_.waiting.Remove(active.request, active.load);
    active.summary.queue_seconds = absl::ToDoubleSeconds(now - active.submitted);
    active.summary.cached_tokens = chunk.begin;
  }
}

// Takes what the step's attention read, and how much of the softmax's mass its selections held.
void EngineCore::NoteAttention(const Schedule& schedule, StepStats& stats) {
  for (const ScheduledChunk& chunk : schedule.chunks) {
    SequenceAttention& attention = chunk.sequence->mutable_attention();
    const int end = chunk.begin + chunk.count;
    const int prompt_end = std::min(end, chunk.sequence->prompt_length());
    if (chunk.begin < prompt_end) {  // its rows share one pass over the context
      const KvTraffic prompt = forward_.Traffic(Selection{}, prompt_end);
      stats.traffic.dense_bytes += prompt.dense_bytes;
      stats.traffic.equivalent_bytes += prompt.equivalent_bytes;
    }
    for (int position = std::max(chunk.begin, prompt_end); position < end; ++position) {
      const KvTraffic row = forward_.Traffic(attention.SelectionAt(position), position + 1);
      stats.traffic += row;
      attention.AddTraffic(position, row);
    }
  }
  for (size_t i = 0; i < recalls_.size(); ++i) {
    const StepBuilder::Probed& probed = step_builder_.probed(i);
    stats.recalls.push_back(recalls_[i]);
    if (probed.sequence->mutable_attention().AddRecall(probed.position, recalls_[i])) {
      ++stats.fallbacks;
    }
  }
}

// Asks for the tokens of the sequences that go on from the chunks.
void EngineCore::Choose(const Schedule& schedule) {
  choices_.clear();
  int row = 0;  // of the logits
  for (const ScheduledChunk& chunk : schedule.chunks) {
    if (!chunk.wants_logits) continue;
    const auto choose = [&](const Sequence& sequence) {
      choices_.push_back(
          MakeChoice(row, sequence.request().sampling, sequence.history(), sequence.Uniform()));
    };
    if (chunk.sequence->forks() > 0) {
      for (const auto& one : requests_.at(chunk.sequence->request().id)->sequences) choose(*one);
    } else {
      choose(*chunk.sequence);
    }
    ++row;
  }
  chosen_.resize(choices_.size());
}

// Takes the step's result for one chunk. An error means that the device failed.
absl::Status EngineCore::HandOut(const ScheduledChunk& chunk, const NextTokens& next) {
  Sequence& sequence = *chunk.sequence;
  // Its request may have ended with an error in another continuation of this step.
  if (sequence.state() == Sequence::State::kFinished) return absl::OkStatus();
  scheduler_.NoteComputed(chunk);
  if (!chunk.wants_logits) return absl::OkStatus();

  const auto entry = requests_.find(sequence.request().id);
  ActiveRequest& active = *entry->second;
  absl::Status taken;
  if (sequence.forks() > 0) {
    if (absl::Status status = Fork(active); !status.ok()) return status;
    for (size_t i = 0; i < active.sequences.size() && taken.ok(); ++i) {
      taken = Take(active, *active.sequences[i], next.choices[i], next.logits);
    }
  } else {
    taken = Take(active, sequence, next.choices.front(), next.logits);
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

absl::Status EngineCore::Fork(ActiveRequest& active) {
  for (size_t i = 1; i < active.sequences.size(); ++i) {
    const auto copy = scheduler_.Fork(*active.sequences[0], *active.sequences[i]);
    if (!copy) continue;
    absl::Status status = forward_.CopyBlock(copy->from, copy->to, copy->tokens);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

// Hands out a sequence's next token. An error concerns this request only.
absl::Status EngineCore::Take(ActiveRequest& active, Sequence& sequence, int32_t choice,
                              std::span<const float> logits) {
  const Request& request = active.request;
  if (choice < 0) return NoChoice(choice);

  const absl::Time now = clock_();
  absl::Time& last = active.last_token[static_cast<size_t>(sequence.index())];
  if (sequence.generated() > 0) {
    active.summary.itl_seconds.push_back(absl::ToDoubleSeconds(now - last));
  }
  last = now;
  if (active.summary.generated_tokens++ == 0) {
    active.summary.ttft_seconds = absl::ToDoubleSeconds(now - active.submitted);
  }

  Output output = sequence.Append(request.logprobs ? Describe(logits, choice, request.top_logprobs)
                                                   : OutputToken{choice, std::nullopt, {}});
  if (output.finish_reason) {
    scheduler_.Remove(sequence);
    load_.forecast.mutable_costs().NoteEnd(request, sequence.generated(),
                                           sequence.max_length() - sequence.prompt_length());
  }
  active.sink->OnOutput(std::move(output));
  return absl::OkStatus();
}

void EngineCore::End(Requests::iterator entry, const absl::Status& status) {
  std::unique_ptr<ActiveRequest> active = std::move(entry->second);
  requests_.erase(entry);
  if (!active->admitted) load_.waiting.Remove(active->request, active->load);
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
  End(entry, Refusal(reason, message, load_.EstimatedWait(request.priority, request.client)));
}

void EngineCore::NoteLoad() {
  RunningLoad& running = load_.running = {};
  for (const Sequence* sequence : scheduler_.running()) {
    running.Add(sequence->priority(), sequence->request().client, load_.forecast.LoadOf(*sequence));
  }
  running.blocked_priority = scheduler_.stands();

  EngineGauges& gauges = gauges_ = {};
  for (const auto& [id, active] : requests_) {
    ++(active->Running() ? gauges.running_requests : gauges.waiting_requests);
  }
  gauges.waiting_prompt_tokens = static_cast<int>(load_.waiting.total().prompt_tokens);
  gauges.estimated_wait_seconds = absl::ToDoubleSeconds(load_.EstimatedWait(0, ""));
  gauges.kv_blocks_used = pool_.used_blocks();
  gauges.kv_blocks_total = pool_.total_blocks();
  observer_.OnGauges(gauges);
}

}  // namespace winnow
