#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/token_choice.h"

namespace winnow {

/// The index of the largest logit, the first one among equals. REQUIRES: at least one logit, none
/// NaN.
int32_t LargestLogit(std::span<const float> logits);

bool HasNan(std::span<const float> logits);

/// A token with its logit, or what becomes of it.
struct TokenValue {
  float value;
  int32_t token;
};

/// The larger value first, the lowest id first among equals.
bool Before(const TokenValue& a, const TokenValue& b);

/// The `count` largest logits (all, if there are fewer) to `largest`, in the order of Before.
void KeepLargest(std::span<const float> logits, size_t count, std::vector<TokenValue>* largest);

/// Describes a token of the row with so many alternatives. REQUIRES: no logit is NaN or +inf, one
/// is finite.
TokenDescription DescribeToken(std::span<const float> logits, int32_t token, int alternatives);

}  // namespace winnow
