#pragma once

#include <cstdint>

namespace winnow::cuda {

// How the labels of a KV head lie within its part of a block: in panels of kPanelTokens tokens,
// [width / 8, kPanelTokens] words of 32 bits. A word holds eight codes of one token: the low halves
// of its bytes those of dimensions 8 p to 8 p + 3, the high halves those of the next four, as dot
// products of four bytes want them. So 16 bytes are one word of four tokens, neighbouring threads
// read neighbouring bytes, and a token's label is written without touching another's.
// Labels of width 4 are half words: the low halves of the two bytes are dimensions 0 and 1, the
// high halves 2 and 3.

inline constexpr int kPanelTokens = 16;

/// Bytes from the start of the head's block to the word of eight dimensions `piece` of token
/// `slot`; width >= 8. For width 4 the label is the half word at 2 * slot.
__host__ __device__ constexpr int LabelOffset(int slot, int width, int piece) {
  // Unsigned, for which dividing by powers of two is cheaper.
  const auto panel = static_cast<uint32_t>(slot) / kPanelTokens;
  const auto token = static_cast<uint32_t>(slot) % kPanelTokens;
  return static_cast<int>(panel * (width / 8) + piece) * (4 * kPanelTokens) +
         static_cast<int>(4 * token);
}

/// The word of eight codes, each 0 to 15.
__host__ __device__ inline uint32_t PackLabel(const int (&codes)[8]) {
  uint32_t word = 0;
  for (int i = 0; i < 4; ++i) {
    word |= static_cast<uint32_t>(codes[i] | codes[i + 4] << 4) << (8 * i);
  }
  return word;
}

}  // namespace winnow::cuda
