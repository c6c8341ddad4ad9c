#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "engine/request/request.h"
#include "kernels/token_choice.h"

namespace winnow {

/// A number in [0, 1) made of nothing but its arguments, so that a token's draw depends neither on
/// what else is in the batch nor on how often the sequence was preempted. `index` is the
/// continuation's, `position` counts its generated tokens.
double UniformAt(uint64_t seed, int index, int position);

/// What the choice of a sequence's next token needs to know of it: the tokens whose logits its
/// parameters change, with their occurrences so far.
class TokenHistory {
 public:
  TokenHistory(const SamplingParams& params, std::span<const int32_t> prompt);

  /// Counts a generated token.
  void Append(int32_t token);

  /// Valid until Append.
  std::span<const LogitEdit> edits() const { return edits_; }

 private:
  LogitEdit& EditOf(int32_t token);

  bool counts_output_;
  std::vector<LogitEdit> edits_;
  std::unordered_map<int32_t, size_t> places_;  ///< by token, in edits_
};

/// The choice that `params` ask for among the logits of `row` (TokenChoice::row). Refers to
/// `history`, and is valid as long as its edits are.
TokenChoice MakeChoice(int row, const SamplingParams& params, const TokenHistory& history,
                       double uniform);

/// Why a choice has come to no token: INTERNAL for kLogitsNotFinite, INVALID_ARGUMENT for
/// kNoTokenLeft. REQUIRES: `choice` is one of them.
absl::Status NoChoice(int32_t choice);

}  // namespace winnow
