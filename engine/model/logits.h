#pragma once

#include <cstdint>
#include <span>

namespace winnow {

/// The index of the largest logit, the first one among equals. REQUIRES: at least one logit, none
/// NaN.
int32_t LargestLogit(std::span<const float> logits);

}  // namespace winnow
