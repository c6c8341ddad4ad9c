#include "engine/request/request_check.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "absl/strings/str_cat.h"

namespace winnow {

int LongestSequence(const Request& request, const EngineOptions& options) {
  const int prompt = static_cast<int>(request.prompt_tokens.size());
  // Written so that a max_tokens near the largest int does not overflow.
  return prompt + std::min(request.max_tokens, options.max_context - prompt);
}

absl::Status CheckRequest(const Request& request, const EngineOptions& options, int vocab) {
  const auto known = [&](int32_t token) { return token >= 0 && token < vocab; };
  if (request.prompt_tokens.empty()) {
    return absl::InvalidArgumentError("prompt: must have at least one token");
  }
  if (request.prompt_tokens.size() >= static_cast<size_t>(options.max_context)) {
    return absl::InvalidArgumentError(absl::StrCat("prompt: has ", request.prompt_tokens.size(),
                                                   " tokens; the context of ", options.max_context,
                                                   " must hold it and at least one more"));
  }
  for (const int32_t token : request.prompt_tokens) {
    if (!known(token)) {
      return absl::InvalidArgumentError(
          absl::StrCat("prompt: token ", token, " is not in the vocabulary of ", vocab));
    }
  }
  if (request.max_tokens < 1) {
    return absl::InvalidArgumentError("max_tokens: must be at least 1");
  }
  if (request.n < 1 || request.n > options.max_running_sequences) {
    return absl::InvalidArgumentError(
        absl::StrCat("n: must be between 1 and ", options.max_running_sequences));
  }
  for (const auto& [token, bias] : request.sampling.logit_bias) {
    if (!known(token)) {
      return absl::InvalidArgumentError(
          absl::StrCat("logit_bias: token ", token, " is not in the vocabulary of ", vocab));
    }
    if (std::isnan(bias) || bias == std::numeric_limits<float>::infinity()) {
      return absl::InvalidArgumentError("logit_bias: must be a number or minus infinity");
    }
  }
  const int64_t pool_tokens = int64_t{options.kv_blocks} * options.block_tokens;
  const int longest = LongestSequence(request, options);
  if (longest > pool_tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_tokens: prompt and continuation together may take ", longest,
                     " tokens; the KV cache holds ", pool_tokens));
  }
  return absl::OkStatus();
}

}  // namespace winnow
