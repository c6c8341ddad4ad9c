#pragma once

namespace winnow {

/// Which dimensions of a head RoPE rotates together.
enum class RopePairing {
  kAdjacent,  ///< (2i, 2i + 1), as permuted GGUF llama files
  kHalves,    ///< (i, i + dim / 2), as Hugging Face checkpoints
};

/// How positions rotate queries and keys.
struct Rope {
  RopePairing pairing = RopePairing::kAdjacent;
  int dim = 0;                         ///< dimensions of a head that are rotated, from the first
  const float* frequencies = nullptr;  ///< device, [dim / 2]: radians per position of each pair
  float magnitude = 1;  ///< cosines and sines are multiplied with it (YaRN, longrope)
};

}  // namespace winnow
