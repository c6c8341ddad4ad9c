#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/attention/sequence_attention.h"
#include "engine/cache/kv_store.h"
#include "engine/request/request.h"
#include "engine/sequence/sampling.h"
#include "engine/sequence/span.h"
#include "engine/sequence/stop_matcher.h"
#include "engine/text/tokenizer.h"

namespace winnow {

/// One prompt with its continuation.
///
/// Life cycle: kNew until the scheduler gets it, then kWaiting and kRunning (back to kWaiting when
/// preempted), kFinished at last. Its tokens and sampling state outlive preemption; only the KV
/// blocks do not. The scheduler owns what concerns scheduling, the engine core adds tokens.
///
/// Drafts are guesses of the tokens to come. They are computed together with the token chosen last,
/// and Accept keeps those that are chosen, too: they change how many tokens a step yields, not
/// which (see Drafter).
class Sequence {
 public:
  enum class State { kNew, kWaiting, kRunning, kFinished };

  /// Continuation `index` of the request. `arrival` orders requests by age; `seed` is the
  /// request's; `max_length` bounds prompt and continuation together. REQUIRES: `request` and
  /// `tokenizer` outlive the sequence.
  Sequence(const Request& request, const Tokenizer& tokenizer, int64_t arrival, int index,
           uint64_t seed, int max_length, const RecallOptions& recall);

  const Request& request() const { return request_; }
  int index() const { return index_; }

  int64_t arrival() const { return arrival_; }
  /// The request's, or a better one.
  int priority() const { return priority_; }
  void Promote(int priority) { priority_ = priority; }
  /// Whether this sequence has the lower priority value, or came earlier, or has the lower index in
  /// the same request.
  bool Before(const Sequence& other) const;

  /// Prompt, then generated ones.
  std::span<const int32_t> tokens() const {
    return std::span(tokens_).first(static_cast<size_t>(length_));
  }
  int length() const { return length_; }
  int prompt_length() const { return static_cast<int>(request_.prompt_tokens.size()); }
  int generated() const { return length() - prompt_length(); }
  int max_length() const { return max_length_; }

  /// Tokens whose keys and values are stored: the first ones.
  int computed() const { return computed_; }
  /// Tokens to compute before the next one can be chosen.
  int pending() const { return length() - computed_; }
  /// Whether all that is to compute is the token chosen last (else there is a past to compute).
  /// REQUIRES: it is running.
  bool decoding() const { return length_ > past_length_; }

  /// Tokens whose keys and values are the same in every sequence that begins with them: the first
  /// ones.
  int cacheable() const {
    return request_.attention.kind == SelectionKind::kAll ? length() : prompt_length();
  }

  const SequenceAttention& attention() const { return attention_; }
  SequenceAttention& mutable_attention() { return attention_; }

  /// What the token after `drafts` of the drafts is chosen by, besides the history.
  const TokenHistory& history() const { return history_; }
  double Uniform(int drafts) const { return UniformAt(seed_, index_, generated() + drafts); }

  /// Sets the drafts, of which as many count as the sequence may still use.
  void SetDrafts(std::span<const int32_t> drafts);
  std::span<const int32_t> drafts() const {
    return std::span(tokens_).subspan(static_cast<size_t>(length_));
  }

  /// `rows` rows from `computed()` on, or fewer where rows begin to select differently: a step's
  /// span of this sequence. Rows past the tokens are those of drafts.
  Span NextSpan(int rows);

  /// Takes the tokens chosen after the last ones of a span: `choices[i]` follows the token chosen
  /// last and i drafts. Keeps choices up to the first one that is not the draft that was computed
  /// in its place, or ends the sequence, and forgets the drafts. Returns what that means for the
  /// output: the kept tokens, text that is now certain, and the finish reason if the last one was.
  /// `descriptions` [choices], which it takes, are needed if the request wants log-probabilities.
  /// The error of NoChoice if a choice came to none; the request can't go on then.
  absl::StatusOr<Output> Accept(std::span<const int32_t> choices,
                                std::span<TokenDescription> descriptions);

  /// The last output of a sequence that is ended early, with the text held back so far.
  Output Abort();

  // The scheduler's.
  State state() const { return state_; }
  void set_state(State state) { state_ = state; }
  /// Whether it has ever been running, or its request's first sequence has.
  bool started() const { return started_; }
  void set_started() { started_ = true; }
  /// The reader is slow: no further tokens until it has caught up.
  bool paused() const { return paused_; }
  void set_paused(bool paused) { paused_ = paused; }
  /// Whether it has nothing to do until its reader has caught up. REQUIRES: it is running.
  bool resting() const { return paused_ && decoding(); }
  /// Whether its deadline binds nobody else: see Forecast::ClaimsAll.
  /// How often others were started while it was passed over (Scheduler).
  int passes() const { return passes_; }
  void NotePass() { ++passes_; }
  bool claims_all() const { return claims_all_; }
  void set_claims_all(bool claims_all) { claims_all_ = claims_all; }
  /// Where its keys and values are.
  const BlockTable& kv() const { return kv_; }
  BlockTable& mutable_kv() { return kv_; }
  void set_computed(int tokens) { computed_ = tokens; }
  /// What it has now is a past to compute before it decodes.
  void SetPast() { past_length_ = length_; }
  /// Continuations that go on from this one's prompt once that is computed.
  std::span<Sequence* const> forks() const { return forks_; }
  void set_forks(std::vector<Sequence*> forks) { forks_ = std::move(forks); }
  /// Sequences that run if it does: itself, and those that will fork.
  int slots() const { return 1 + static_cast<int>(forks_.size()); }

 private:
  bool Append(OutputToken token, Output& output);
  void Finish(FinishReason reason, Output& output);

  const Request& request_;
  const Tokenizer& tokenizer_;
  const int64_t arrival_;
  const int index_;
  const uint64_t seed_;
  const int max_length_;

  std::vector<int32_t> tokens_;  ///< and drafts behind them
  int length_;                   ///< of the tokens
  TokenHistory history_;
  Detokenizer detokenizer_;
  StopMatcher stop_matcher_;
  SequenceAttention attention_;

  State state_ = State::kNew;
  int priority_;
  bool started_ = false;
  bool paused_ = false;
  bool claims_all_ = false;
  int passes_ = 0;
  int computed_ = 0;
  int past_length_ = 0;
  std::vector<Sequence*> forks_;
  BlockTable kv_;
};

/// Orders sequences by Sequence::Before.
struct ComesBefore {
  bool operator()(const Sequence* a, const Sequence* b) const { return a->Before(*b); }
};

}  // namespace winnow
