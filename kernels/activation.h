#pragma once

#include <cstdint>

namespace winnow {

/// What the gate of a feed-forward network goes through.
enum class Activation : uint8_t {
  kSilu,      ///< x / (1 + exp(-x))
  kGeluTanh,  ///< x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2
};

}  // namespace winnow
