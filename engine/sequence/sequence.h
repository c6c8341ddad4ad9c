#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/attention/sequence_attention.h"
#include "engine/cache/prefix_cache.h"
#include "engine/request/request.h"
#include "engine/sequence/sampling.h"
#include "engine/sequence/stop_matcher.h"
#include "engine/text/tokenizer.h"

namespace winnow {

/// One prompt with its continuation.
///
/// Life cycle: kNew until the scheduler gets it, then kWaiting and kRunning (back to kWaiting when
/// preempted), kFinished at last. Its tokens and sampling state outlive preemption; only the KV
/// blocks do not. The scheduler owns what concerns scheduling, the engine core adds tokens.
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

  std::span<const int32_t> tokens() const { return tokens_; }  ///< prompt, then generated ones
  int length() const { return static_cast<int>(tokens_.size()); }
  int prompt_length() const { return static_cast<int>(request_.prompt_tokens.size()); }
  int generated() const { return length() - prompt_length(); }
  int max_length() const { return max_length_; }

  /// Tokens whose keys and values are stored: the first ones.
  int computed() const { return computed_; }
  /// Tokens to compute before the next one can be chosen.
  int pending() const { return length() - computed_; }
  /// Whether all that is to compute is the token chosen last (else there is a past to compute).
  /// REQUIRES: it is running.
  bool decoding() const { return length() > admitted_length_; }

  /// Tokens whose keys and values are the same in every sequence that begins with them: the first
  /// ones.
  int cacheable() const {
    return request_.attention.kind == SelectionKind::kAll ? length() : prompt_length();
  }

  const SequenceAttention& attention() const { return attention_; }
  SequenceAttention& mutable_attention() { return attention_; }

  // What the next token is chosen by.
  const TokenHistory& history() const { return history_; }
  double Uniform() const { return UniformAt(seed_, index_, generated()); }

  /// Adds the chosen token and returns what it means for the output: text that is now certain, and
  /// the finish reason if this was the last token.
  Output Append(OutputToken token);

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
  /// KV blocks in the order of positions.
  const std::vector<int32_t>& blocks() const { return blocks_; }
  std::vector<int32_t>& mutable_blocks() { return blocks_; }
  void set_computed(int tokens) { computed_ = tokens; }
  /// What the prefix cache knows of its blocks.
  const PrefixPosition& prefix_position() const { return prefix_position_; }
  void set_prefix_position(const PrefixPosition& position) { prefix_position_ = position; }
  /// The length with which it was last admitted.
  void set_admitted_length(int tokens) { admitted_length_ = tokens; }
  /// Continuations that will fork from this one once the prompt is computed.
  int forks() const { return forks_; }
  void set_forks(int forks) { forks_ = forks; }
  /// Sequences that run if it does: itself, and those that will fork.
  int slots() const { return 1 + forks_; }

 private:
  void Finish(FinishReason reason, Output& output);

  const Request& request_;
  const Tokenizer& tokenizer_;
  const int64_t arrival_;
  const int index_;
  const uint64_t seed_;
  const int max_length_;

  std::vector<int32_t> tokens_;
  TokenHistory history_;
  Detokenizer detokenizer_;
  StopMatcher stop_matcher_;
  SequenceAttention attention_;

  State state_ = State::kNew;
  int priority_;
  bool started_ = false;
  bool paused_ = false;
  int computed_ = 0;
  int admitted_length_ = 0;
  int forks_ = 0;
  std::vector<int32_t> blocks_;
  PrefixPosition prefix_position_;
};

/// Orders sequences by Sequence::Before.
struct ComesBefore {
  bool operator()(const Sequence* a, const Sequence* b) const { return a->Before(*b); }
};

}  // namespace winnow
