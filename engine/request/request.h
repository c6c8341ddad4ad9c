#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/attention/policy.h"
#include "kernels/token_choice.h"

namespace winnow {

/// How the next token is chosen from the logits. Applied in the order of the fields.
struct SamplingParams {
  /// Added to the logits of these tokens; -inf bans a token.
  std::vector<std::pair<int32_t, float>> logit_bias;
  float repetition_penalty =
      1;  ///< 0.01 to 10; divides positive logits of tokens seen in prompt or output
  float presence_penalty = 0;   ///< subtracted once from tokens seen in the output
  float frequency_penalty = 0;  ///< subtracted per occurrence in the output
  float temperature = 1;  ///< >= 0; 0 is greedy: the token of the largest logit, lowest id first
  int top_k = 0;          ///< keep the k most probable tokens; 0 keeps all
  float top_p = 1;        ///< keep the smallest set whose probability reaches top_p, in (0, 1]
  float min_p = 0;        ///< drop tokens below min_p times the largest probability, in [0, 1)
  /// Same seed, same tokens, whatever else is in the batch. Drawn at random when absent.
  std::optional<uint64_t> seed;
};

/// A request as the engine takes it: validated, tokenized.
struct Request {
  uint64_t id = 0;  ///< unique among the requests that the engine knows; chosen by the caller
  std::vector<int32_t> prompt_tokens;  ///< at least one
  SamplingParams sampling;
  AttentionPolicy attention;            ///< of the generated tokens
  int max_tokens = 0;                   ///< generated tokens per sequence, at least 1
  int n = 1;                            ///< parallel continuations of the prompt
  std::vector<std::string> stop;        ///< generation ends where one appears; not part of the text
  std::vector<int32_t> stop_token_ids;  ///< generation ends with one; not part of the text
  bool ignore_eos = false;              ///< generate on past the end-of-sequence token
  bool logprobs = false;  ///< report log-probabilities of chosen tokens (of the unmodified logits)
  int top_logprobs = 0;   ///< and of this many most probable ones
  /// Requests share the keys and values of common prefixes only with those of the same salt.
  std::string cache_salt;
  bool render_special = false;  ///< spell control tokens in the text
  int priority = 0;             ///< lower ones come first
  std::string client;           ///< who asks: clients of a priority are served alike
  absl::Time deadline = absl::InfiniteFuture();
};

enum class FinishReason { kStop, kLength, kCancelled };

struct OutputToken {
  int32_t token = 0;
  std::optional<float> logprob;
  std::vector<TokenLogprob> top_logprobs;  ///< most probable first
};

/// A piece of one continuation's output, in order.
struct Output {
  int index = 0;     ///< which of the n continuations
  std::string text;  ///< complete UTF-8; may be empty while a stop string is possible
  std::vector<OutputToken> tokens;  ///< those behind the text since the last output
  /// Set on the continuation's last output. kCancelled: the request ended early, for whatever
  /// reason RequestSummary::status has.
  std::optional<FinishReason> finish_reason;
  /// The stop string or token that matched, with kStop; empty / absent for end of sequence.
  std::string matched_stop;
};

/// What the attention of a request's generated tokens came to.
struct SparsitySummary {
  AttentionPolicy policy;
  KvTraffic traffic;
  double recall_sum = 0;     ///< of samples (ProbedMass::recall)
  double estimated_sum = 0;  ///< likewise (ProbedMass::estimated)
  int recall_samples = 0;
  int fallbacks = 0;  ///< times that a continuation's budget was doubled

  /// Tokens that a KV head attended to, mean over rows, layers and heads; 0 without any.
  double mean_budget_tokens() const {
    return traffic.heads == 0
               ? 0
               : static_cast<double>(traffic.attended_tokens) / static_cast<double>(traffic.heads);
  }
};

/// What a request used, once it is over.
struct RequestSummary {
  absl::Status status;  ///< OK; else why it ended early: CANCELLED, DEADLINE_EXCEEDED, ...
  int prompt_tokens = 0;
  int cached_tokens = 0;     ///< prompt tokens whose KV blocks were already there
  int generated_tokens = 0;  ///< over all continuations
  int preemptions = 0;
  bool started = false;      ///< a step has computed some of it
  double queue_seconds = 0;  ///< from submission to the first step that computed it
  double ttft_seconds = 0;   ///< from submission to the first generated token
  double total_seconds = 0;  ///< from submission to the end
  SparsitySummary sparsity;
  std::vector<double> itl_seconds;  ///< gaps between generated tokens of each continuation
};

/// Receives one request's output. All calls come from the engine thread and must not block.
class RequestSink {
 public:
  virtual ~RequestSink() = default;
  /// Whether another output can be taken. While false the engine computes no further tokens for the
  /// request; call Engine::Wake() once there is room again. Asked once before a step: one output of
  /// each of the n continuations may follow, and one more of each when the request is ended early.
  virtual bool HasRoom() const = 0;
  virtual void OnOutput(Output output) = 0;
  /// The request is over and the engine forgets the sink: the last call it makes.
  virtual void OnFinished(RequestSummary summary) = 0;
};

}  // namespace winnow
