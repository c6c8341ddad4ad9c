#pragma once

#include <cstdint>

namespace winnow {

// What models' sizes may be, whatever files state them: bounds that keep every later product of
// sizes far from overflow.
inline constexpr int64_t kMaxConfigBytes = 4 << 20;  ///< of a config.json
inline constexpr int kMaxLayers = 1024;
inline constexpr int kMaxWidth = 1 << 20;  ///< of the residual stream, a feed-forward network
inline constexpr int kMaxHeads = 1024;
inline constexpr int kMaxHeadDim = 1024;
inline constexpr int kHeadDimMultiple = 16;  ///< what the kernels' vectors divide
inline constexpr int kMaxVocab = 1 << 24;
inline constexpr int kMaxContext = 1 << 24;
inline constexpr double kMaxRopeBase = 1e12;
inline constexpr double kMaxRopeFactor = 1e6;

}  // namespace winnow
