#include "engine/eval/query_rotation.h"

#include <cmath>
#include <cstddef>

namespace winnow {

void RotateHeads(const RopeConfig& rope, int position, int head_dim, std::span<float> row) {
  const auto half = static_cast<size_t>(rope.dim / 2);
  const bool adjacent = rope.pairing == RopePairing::kAdjacent;
  for (size_t i = 0; i < half; ++i) {
    const double angle = rope.frequencies[i] * position;
    const auto cosine = static_cast<float>(rope.magnitude * std::cos(angle));
    const auto sine = static_cast<float>(rope.magnitude * std::sin(angle));
    const size_t first = adjacent ? 2 * i : i;
    const size_t second = adjacent ? 2 * i + 1 : i + half;
    for (size_t head = 0; head < row.size(); head += static_cast<size_t>(head_dim)) {
      const float a = row[head + first];
      const float b = row[head + second];
      row[head + first] = a * cosine - b * sine;
      row[head + second] = a * sine + b * cosine;
    }
  }
}

}  // namespace winnow
