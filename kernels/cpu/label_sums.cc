#include "kernels/cpu/label_sums.h"

#include <algorithm>
#include <bit>
#include <cstdint>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/label_sums.cc"
#include "hwy/foreach_target.h"
// After foreach_target:
#include "hwy/highway.h"
#include "kernels/cpu/integer_dot-inl.h"

#if HWY_TARGET == HWY_AVX3_DL
HWY_PUSH_ATTRIBUTES(HWY_TARGET_STR ",avx512vnni")
#else
HWY_BEFORE_NAMESPACE();
#endif
namespace winnow::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using F32 = hn::RebindToFloat<I32>;
using VF32 = hn::Vec<F32>;
constexpr int kLanes = static_cast<int>(hn::MaxLanes(F32()));
static_assert(kPanelTokens % kLanes == 0);
// Query heads whose sums stay in registers.
constexpr int kTileHeads = 3;
constexpr int kLargestFactor = 127;
// Weights below all that labels tell apart: their scale would be no number.
constexpr float kLeastWeight = 0x1p-100f;

// The first token of the sample's next panel.
HWY_INLINE int NextSampledPanel(int token) {
  static_assert(kSampledTokens % kPanelTokens == 0);
  const int next = token + kPanelTokens;
  return IsSampled(next) ? next : (token / kSampleStride + 1) * kSampleStride;
}

// By what sampled weights become integers up to kLargestFactor.
template <int kHeads>
HWY_INLINE void FindScales(const float* const* weights, int tokens, float (&scales)[kHeads]) {
  const F32 d;
  VF32 largest[kHeads];
  for (VF32& of_head : largest) of_head = hn::Zero(d);
  for (int token = 0; token < tokens; token = NextSampledPanel(token)) {
    for (int lane = 0; lane < kPanelTokens; lane += kLanes) {
      for (int h = 0; h < kHeads; ++h) {
        largest[h] = hn::Max(largest[h], hn::LoadU(d, weights[h] + token + lane));
      }
    }
  }
  for (int h = 0; h < kHeads; ++h) {
    scales[h] = kLargestFactor / std::max(kLeastWeight, hn::GetLane(hn::MaxOfLanes(d, largest[h])));
  }
}

// Leaves the sample's sums of weights, sums[h][1], and of codes of dimensions
// [8 piece, 8 (piece + kPieces)) times weights.
template <int kHeads, int kPieces>
HWY_INLINE void SumPieces(const LabelBlocks& labels, const float* const* weights,
                          const float (&scales)[kHeads], int piece, float* const* sums) {
  const F32 d;
  const I32 di;
  const U8 d8;
  // Of four tokens with a 32-bit lane each: the four dimensions, each of four tokens; the lowest
  // bytes of all, four times.
  alignas(16) constexpr uint8_t kTurn[] = {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15};
  alignas(16) constexpr uint8_t kLowest[] = {0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12};
  const auto turn = hn::LoadDup128(d8, kTurn);
  const auto lowest = hn::LoadDup128(d8, kLowest);
  // Integers that are added to it stand in the lowest bits of the sum.
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23
  const int shift = std::countr_zero(static_cast<uint32_t>(labels.block_tokens));
  NibbleDots dots[kHeads][kPieces];
  VI32 counts[kHeads];
  for (VI32& count : counts) count = hn::Zero(di);
  for (int token = 0; token < labels.tokens; token = NextSampledPanel(token)) {
    const uint8_t* panel = labels.blocks[token >> shift] +
                           LabelOffset(token & (labels.block_tokens - 1), labels.width) +
                           piece * 4 * kPanelTokens;
    for (int lane = 0; lane < kPanelTokens; lane += kLanes) {
      hn::Vec<U8> factors[kHeads];
      for (int h = 0; h < kHeads; ++h) {
        const VF32 rounded = hn::MulAdd(hn::LoadU(d, weights[h] + token + lane),
                                        hn::Set(d, scales[h]), hn::Set(d, kMagic));
        counts[h] = hn::Add(counts[h],
                            hn::Sub(hn::BitCast(di, rounded), hn::BitCast(di, hn::Set(d, kMagic))));
        factors[h] = hn::TableLookupBytes(hn::BitCast(d8, rounded), lowest);
      }
      for (int p = 0; p < kPieces; ++p) {
        const auto packed =
            hn::TableLookupBytes(hn::LoadU(d8, panel + 4 * (p * kPanelTokens + lane)), turn);
        for (int h = 0; h < kHeads; ++h) dots[h][p].Add(packed, factors[h]);
      }
    }
  }
  for (int h = 0; h < kHeads; ++h) {
    const float unit = 1 / scales[h];
    sums[h][1] = unit * static_cast<float>(hn::GetLane(hn::SumOfLanes(di, counts[h])));
    for (int p = 0; p < kPieces; ++p) {
      // In vectors, a block of four lanes is of as many dimensions.
      int32_t of_lanes[2][kLanes];
      hn::StoreU(dots[h][p].Low(), di, of_lanes[0]);
      hn::StoreU(dots[h][p].High(), di, of_lanes[1]);
      for (int i = 0; i < 8; ++i) {
        int32_t sum = 0;
        for (int lane = i % 4; lane < kLanes; lane += 4) sum += of_lanes[i / 4][lane];
        sums[h][2 + 8 * (piece + p) + i] = unit * static_cast<float>(sum);
      }
    }
  }
}

template <int kHeads>
void SumTile(const LabelBlocks& labels, const TokensLeftOut& left_out, float* const* weights,
             float* const* sums) {
  const int padded = (labels.tokens + kPanelTokens - 1) / kPanelTokens * kPanelTokens;
  for (int h = 0; h < kHeads; ++h) {
    std::fill(weights[h] + labels.tokens, weights[h] + padded, 0.0f);
    sums[h][0] = 0;
  }
  for (const int32_t position : left_out.positions) {
    const int token = position - left_out.first;
    for (int h = 0; h < kHeads; ++h) {
      sums[h][0] += weights[h][token];
      weights[h][token] = 0;
    }
  }
  float scales[kHeads];
  FindScales<kHeads>(weights, labels.tokens, scales);
  const int pieces = labels.width / 8;
  int piece = 0;
  // As many pieces at a time as there are registers for.
  if constexpr (kLanes == 16) {
    for (; piece + 4 <= pieces; piece += 4)
      SumPieces<kHeads, 4>(labels, weights, scales, piece, sums);
    for (; piece + 2 <= pieces; piece += 2)
      SumPieces<kHeads, 2>(labels, weights, scales, piece, sums);
  }
  for (; piece < pieces; ++piece) SumPieces<kHeads, 1>(labels, weights, scales, piece, sums);
}

void SumCodes(const LabelBlocks& labels, const TokensLeftOut& left_out, float* const* weights,
              int heads, float* const* sums) {
  for (int h = 0; h < heads;) {
    // Tiles of about the same size.
    const int tiles = (heads - h + kTileHeads - 1) / kTileHeads;
    const int tile = (heads - h + tiles - 1) / tiles;
    if (tile == 1) SumTile<1>(labels, left_out, weights + h, sums + h);
    if (tile == 2) SumTile<2>(labels, left_out, weights + h, sums + h);
    if (tile == 3) SumTile<3>(labels, left_out, weights + h, sums + h);
    h += tile;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace winnow::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace winnow::cpu {

HWY_EXPORT(SumCodes);

void SumCodes(const LabelBlocks& labels, const TokensLeftOut& left_out, float* const* weights,
              int heads, float* const* sums) {
  HWY_DYNAMIC_DISPATCH(SumCodes)(labels, left_out, weights, heads, sums);
}

}  // namespace winnow::cpu
#endif  // HWY_ONCE
