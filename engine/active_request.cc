#include "engine/active_request.h"

#include <algorithm>
#include <utility>

#include "engine/request/request_check.h"

namespace winnow {

ActiveRequest::ActiveRequest(Request request, RequestSink* sink, absl::Time submitted,
                             const Load& load, int64_t arrival, uint64_t seed,
                             const EngineOptions& options, const Tokenizer& tokenizer)
    : request_(std::move(request)),
      sink_(sink),
      submitted_(submitted),
      load_(load),
      last_token_(static_cast<size_t>(request_.n)) {
  const int max_length = LongestSequence(request_, options);
  std::vector<Sequence*> forks;
  for (int index = 0; index < request_.n; ++index) {
    sequences_.push_back(std::make_unique<Sequence>(request_, tokenizer, arrival, index,
                                                    request_.sampling.seed.value_or(seed),
                                                    max_length, options.recall));
    if (index > 0) forks.push_back(sequences_.back().get());
  }
  first().set_forks(std::move(forks));
  summary_.prompt_tokens = first().prompt_length();
}

bool ActiveRequest::complete() const {
  return std::ranges::all_of(
      sequences_, [](const auto& s) { return s->state() == Sequence::State::kFinished; });
}

void ActiveRequest::NotePauses() {
  const bool paused = !sink_->HasRoom();
  for (const auto& sequence : sequences_) sequence->set_paused(paused);
}

void ActiveRequest::NoteStart(int cached_tokens, absl::Time now) {
  summary_.started = true;
  summary_.queue_seconds = absl::ToDoubleSeconds(now - submitted_);
  summary_.cached_tokens = cached_tokens;
}

void ActiveRequest::Deliver(const Sequence& sequence, Output output, absl::Time now) {
  const auto tokens = static_cast<int>(output.tokens.size());
  const bool first_of_sequence = sequence.generated() == tokens;
  absl::Time& last = last_token_[static_cast<size_t>(sequence.index())];
  if (!first_of_sequence) summary_.itl_seconds.push_back(absl::ToDoubleSeconds(now - last));
  summary_.itl_seconds.insert(summary_.itl_seconds.end(), static_cast<size_t>(tokens - 1), 0.0);
  last = now;
  if (summary_.generated_tokens == 0) {
    summary_.ttft_seconds = absl::ToDoubleSeconds(now - submitted_);
  }
  summary_.generated_tokens += tokens;
  sink_->OnOutput(std::move(output));
}

const RequestSummary& ActiveRequest::Conclude(const absl::Status& status, absl::Time now) {
  SparsitySummary& sparsity = summary_.sparsity;
  sparsity.policy = request_.attention;
  for (const auto& sequence : sequences_) {
    const SequenceAttention& attention = sequence->attention();
    sparsity.traffic += attention.traffic();
    sparsity.recall_sum += attention.recall_sum();
    sparsity.estimated_sum += attention.estimated_sum();
    sparsity.recall_samples += attention.recall_samples();
    sparsity.fallbacks += attention.fallbacks();
  }
  summary_.status = status;
  summary_.total_seconds = absl::ToDoubleSeconds(now - submitted_);
  return summary_;
}

}  // namespace winnow
