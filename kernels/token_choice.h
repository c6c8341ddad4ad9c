#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace winnow {

/// What a choice does to one token's logit first.
struct LogitEdit {
  int32_t token = 0;
  float bias = 0;      ///< added; -inf bans the token
  int32_t count = -1;  ///< occurrences in the output; 0: only in the prompt; -1: in neither
};

/// How a token is chosen from a row of logits. Applied in the order of the fields.
struct TokenChoice {
  int32_t row = 0;                   ///< index into StepBatch::logit_rows
  std::span<const LogitEdit> edits;  ///< at most one of a token
  float repetition_penalty = 1;      ///< > 0; divides positive logits of tokens with a count
  float presence_penalty = 0;        ///< subtracted once where the count is above 0
  float frequency_penalty = 0;       ///< subtracted `count` times
  float temperature = 0;  ///< >= 0; 0 is greedy: the token of the largest logit, lowest id first
  int32_t top_k = 0;      ///< keep the k most probable tokens; 0 keeps all
  float top_p = 1;        ///< keep the smallest set whose probability reaches top_p, in (0, 1]
  float min_p = 0;        ///< drop tokens below min_p times the largest probability, in [0, 1)
  /// In [0, 1): the token at this share of what is kept, in the order of probabilities if top_k or
  /// top_p leaves something out, else in the order of ids. Among equals the lowest id is first.
  double uniform = 0;
  /// Most probable tokens to describe beside the chosen one; -1: not even that is described.
  int32_t alternatives = -1;
};

struct TokenLogprob {
  int32_t token = 0;
  float logprob = 0;
};

/// What a row of logits, unmodified, says of a token that was chosen from it. Log-probabilities are
/// natural, and within 1e-5 of what exact arithmetic gives; or within 1e-6 of their size, if that
/// is more.
struct TokenDescription {
  float logprob = 0;
  std::vector<TokenLogprob> alternatives;  ///< most probable first, lowest id first among equals
};

/// What a choice comes to when it is no token.
inline constexpr int32_t kLogitsNotFinite = -1;  ///< one is NaN, or the largest is not finite
inline constexpr int32_t kNoTokenLeft = -2;      ///< edits leave nothing to choose

}  // namespace winnow
