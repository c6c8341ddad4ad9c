#include "engine/model/logits.h"

#include <algorithm>
#include <cstddef>
#include <limits>

namespace winnow {

int32_t LargestLogit(std::span<const float> logits) {
  // Maxima of lanes apart, which the compiler makes a vector of, then a search for the largest.
  constexpr size_t kLanes = 16;
  float maxima[kLanes];
  std::fill(std::begin(maxima), std::end(maxima), -std::numeric_limits<float>::infinity());
  size_t i = 0;
  for (; i + kLanes <= logits.size(); i += kLanes) {
    for (size_t j = 0; j < kLanes; ++j) {
      maxima[j] = logits[i + j] > maxima[j] ? logits[i + j] : maxima[j];
    }
  }
  float largest = *std::ranges::max_element(maxima);
  for (; i < logits.size(); ++i) largest = logits[i] > largest ? logits[i] : largest;
  return static_cast<int32_t>(std::ranges::find(logits, largest) - logits.begin());
}

}  // namespace winnow
