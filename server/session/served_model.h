#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "engine/attention/policy.h"
#include "engine/request/request.h"
#include "engine/text/chat_template.h"
#include "engine/text/sampling_defaults.h"
#include "engine/text/tokenizer.h"

namespace winnow {

// Most that one request may ask for, besides RequestLimits.
inline constexpr int kMaxStopStringBytes = 256;
inline constexpr int kMaxStopTokenIds = 64;
inline constexpr int kMaxTopLogprobs = 20;
inline constexpr size_t kMaxSaltBytes = 256;
inline constexpr int kMaxPriority = 100;
/// Tokens that a request gets when it doesn't say, if the context leaves that many.
inline constexpr int kDefaultMaxTokens = 256;

/// What requests may ask of attention.
struct AttentionLimits {
  AttentionPolicy default_policy;  ///< of requests that name none
  double min_sparsity = 1;         ///< 1 lets requests ask for dense attention
  double max_sparsity = 64;
  bool has_labels = false;  ///< "double-sparsity" is possible
};

/// Most that one request may ask for.
struct RequestLimits {
  int prompt_tokens = 0;  ///< 0: as many as the context leaves room for
  int n = 16;
  int stop_strings = 16;
  int logit_bias_entries = 1024;
  int64_t answer_bytes = 4 << 20;  ///< of a message that is not one of a stream
};

/// What fronts need to know of the model behind the engine. Immutable while serving.
struct ServedModel {
  std::string name;          ///< what requests may call it; UTF-8, as are the others
  std::string title;         ///< what the model file calls itself
  std::string architecture;  ///< "llama", "qwen2", ...
  int context_tokens = 0;    ///< most tokens of one sequence here
  int trained_context_tokens = 0;
  int max_sequences = 0;  ///< sequences that the engine computes at a time
  int min_priority = 0;   ///< lowest value, which comes first, that requests may ask for
  AttentionLimits attention;
  RequestLimits limits = {};
  SamplingParams sampling = {};  ///< of requests, where they don't say
  const Tokenizer* tokenizer = nullptr;
  double mean_token_bytes = 0;       ///< over the vocabulary
  std::optional<ChatTemplate> chat;  ///< none: the model has no template, or a broken one
};

/// NOT_FOUND unless `name` is empty or that of the served model.
absl::Status CheckModelName(const std::string& name, const ServedModel& model);

/// How requests are sampled that don't say: as the model's authors want it, or, where they don't
/// say either, as SamplingParams has it.
SamplingParams DefaultSampling(const SamplingDefaults& authors);

/// Bytes of a vocabulary's tokens, their mean.
double MeanTokenBytes(const Tokenizer& tokenizer);

/// Continuations that a request may have, and tokens of its prompt.
int MaxContinuations(const ServedModel& model);
int MaxPromptTokens(const ServedModel& model);

}  // namespace winnow
