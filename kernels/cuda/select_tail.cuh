#pragma once

#include <cstdint>

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/select_range.cuh"
#include "kernels/summary.h"

// What the labels of a head's unchosen tokens say of them together: see decode_select.cu. Warps sum
// their weights, and their codes times their weights, on tensor cores: codes of some tokens are a
// first operand, with a row for each dimension, and weights the second one.

namespace winnow::cuda::select {

/// Of kernels without tails.
struct NoTail {
  static constexpr bool kCounts = false;
};

/// Words in shared memory by which the lanes of a warp exchange codes of 128 tokens.
inline constexpr int kCodeWords = 4 * 32;

/// What a block makes of its warps' sums, in place of the histograms.
template <int kWidth, int kHeads>
struct TailShared {
  static constexpr int kHeadSums = 2 + kWidth;
  static constexpr int kSums = kHeads * kHeadSums;
  // Warps whose sums are added up together: as many as there is room for.
  static constexpr int kRound = 32 * kSums <= 3000 ? 32 : 16 * kSums <= 3000 ? 16 : 8;
  // Of a head: of all weights, of the sample's, and of the sample's codes times weights.
  float of_warp[kRound][kSums];
  float of_block[kSums];
  float of_all[kSums];
};

/// Marks entries of the list that a warp writes from: their keys equal the threshold; and they come
/// too late to be chosen.
inline constexpr uint32_t kEqual = 1u << 31;
inline constexpr uint32_t kLate = 1u << 30;

/// A lane's part of a product: row lane / 4 of the codes of one piece of labels, four tokens to a
/// word, is one of the nibbles of that byte of their words.
__device__ inline int TailRow() { return static_cast<int>(threadIdx.x % 32 / 4); }
__device__ inline bool IsHighNibble() { return TailRow() >= 4; }

/// Where byte b of the words of a tile's tokens begins: a row of a matrix, in other banks than
/// other bytes' rows of the tile.
__device__ inline int CodeRow(int b, int tile) { return (b * 8 + (tile ^ (2 * b))) * 4; }

/// Shares the codes of one piece of labels, of four neighbouring tokens a lane. `exchange`
/// [kCodeWords] is the warp's.
__device__ inline void ShareCodes(const uint4& words, uint32_t* exchange) {
  const int lane = threadIdx.x % 32;
  const uint32_t first[2] = {__byte_perm(words.x, words.y, 0x5140),
                             __byte_perm(words.z, words.w, 0x5140)};
  const uint32_t second[2] = {__byte_perm(words.x, words.y, 0x7362),
                              __byte_perm(words.z, words.w, 0x7362)};
  const uint32_t bytes[4] = {
      __byte_perm(first[0], first[1], 0x5410), __byte_perm(first[0], first[1], 0x7632),
      __byte_perm(second[0], second[1], 0x5410), __byte_perm(second[0], second[1], 0x7632)};
#pragma unroll
  for (int b = 0; b < 4; ++b) exchange[CodeRow(b, lane / 4) + lane % 4] = bytes[b];
}

/// Of what the warp's lanes have shared, the lane's row for tokens 4 (lane % 4) + {0, 1, 2, 3} of
/// four tiles of 16 tokens from `tile` on: bytes, in units of 16 where they are high nibbles.
__device__ inline void LoadCodes(const uint32_t* exchange, int tile, uint32_t (&codes)[4]) {
  const int lane = threadIdx.x % 32;
  LoadMatrices(codes, static_cast<uint32_t>(
                          __cvta_generic_to_shared(&exchange[CodeRow(lane % 4, tile + lane / 8)])));
  const uint32_t mask = IsHighNibble() ? 0xf0f0f0f0 : 0x0f0f0f0f;
  for (uint32_t& c : codes) c &= mask;
}

/// The samples of a few steps fill one: where the lane's sampled tokens lie in so many tokens.
inline constexpr int kSampledLanes = kSampledTokens / kLaneTokens;
inline constexpr int kSampleTokens = 32 / kSampledLanes * kSampleStride;
static_assert(kStepTokens % kSampleStride == 0);
__device__ inline int SampledOffset() {
  const int lane = threadIdx.x % 32;
  return lane / kSampledLanes * kSampleStride + lane % kSampledLanes * kLaneTokens;
}

/// Keys of the four tokens at a position in the warp's range, or behind it, where they are absent.
__device__ inline uint4 SampledKeys(const Range& range, int position) {
  if (position >= range.end) return {};
  return *reinterpret_cast<const uint4*>(&range.keys[position - range.begin]);
}

/// The tail of a group of query heads (select_tail_group.cuh), or with kHeads = 1 of one
/// (select_tail_one.cuh).
template <int kWidth, int kHeads>
class TailSums;

}  // namespace winnow::cuda::select
