#pragma once

#include <cstdint>
#include <span>

namespace winnow {

/// The index of the largest logit, the first one among equals. REQUIRES: at least one logit, none
/// NaN.
int32_t LargestLogit(std::span<const float> logits);

bool HasNan(std::span<const float> logits);

/// What greedy decoding chooses: the largest logit, or -1 if it is not finite or one is NaN.
int32_t GreedyToken(std::span<const float> logits);

}  // namespace winnow
