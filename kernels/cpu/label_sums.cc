#include "kernels/cpu/label_sums.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <type_traits>

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
// Tokens whose weights have one scale: so many that the first-level cache holds them.
constexpr int kScaleTokens = 32 * kPanelTokens;
// Query heads whose sums stay in registers.
constexpr int kTileHeads = 3;
constexpr int kMaxPieces = kMaxLabelWidth / 8;
constexpr int kLargestFactor = 127;
// Weights below all that labels tell apart: their scale would be no number.
constexpr float kLeastWeight = 0x1p-100f;

// The tokens of a span of at most kScaleTokens, with their weights as integers.
template <int kHeads>
struct Span {
  int begin;
  int end;
  float sum[kHeads];    ///< of the weights
  float scale[kHeads];  ///< integers are weights times scale
};

template <int kHeads>
HWY_INLINE Span<kHeads> SpanOf(const float* const* weights, int begin, int end) {
  const F32 d;
  Span<kHeads> span = {begin, end, {}, {}};
  VF32 sum[kHeads];
  VF32 largest[kHeads];
  for (int h = 0; h < kHeads; ++h) sum[h] = largest[h] = hn::Zero(d);
#pragma GCC unroll 4
  for (int token = begin; token < end; token += kLanes) {
    for (int h = 0; h < kHeads; ++h) {
      const VF32 weight = hn::LoadU(d, weights[h] + token);
      sum[h] = hn::Add(sum[h], weight);
      largest[h] = hn::Max(largest[h], weight);
    }
  }
  for (int h = 0; h < kHeads; ++h) {
    span.sum[h] = hn::GetLane(hn::SumOfLanes(d, sum[h]));
    span.scale[h] =
        kLargestFactor / std::max(kLeastWeight, hn::GetLane(hn::MaxOfLanes(d, largest[h])));
  }
  return span;
}

// Adds the span's sums of dimensions [8 piece, 8 (piece + kPieces)) to `totals`, which has each
// piece's low and high halves. In vectors, a block of four lanes is of as many dimensions.
template <int kHeads, int kPieces>
HWY_INLINE void AddPieces(const LabelBlocks& labels, const float* const* weights,
                          const Span<kHeads>& span, int piece,
                          float (&totals)[kHeads][kMaxPieces][2][kLanes]) {
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
  for (int token = span.begin; token < span.end; token += kPanelTokens) {
    const uint8_t* panel = labels.blocks[token >> shift] +
                           LabelOffset(token & (labels.block_tokens - 1), labels.width) +
                           piece * 4 * kPanelTokens;
    for (int lane = 0; lane < kPanelTokens; lane += kLanes) {
      hn::Vec<U8> factors[kHeads];
      for (int h = 0; h < kHeads; ++h) {
        const VF32 rounded = hn::MulAdd(hn::LoadU(d, weights[h] + token + lane),
                                        hn::Set(d, span.scale[h]), hn::Set(d, kMagic));
        counts[h] = hn::Add(counts[h], hn::BitCast(di, rounded));
        factors[h] = hn::TableLookupBytes(hn::BitCast(d8, rounded), lowest);
      }
      for (int p = 0; p < kPieces; ++p) {
        const auto packed =
            hn::TableLookupBytes(hn::LoadU(d8, panel + 4 * (p * kPanelTokens + lane)), turn);
        for (int h = 0; h < kHeads; ++h) dots[h][p].Add(packed, factors[h]);
      }
    }
  }
  const auto magics =
      std::bit_cast<uint32_t>(kMagic) * static_cast<uint32_t>(span.end - span.begin);
  for (int h = 0; h < kHeads; ++h) {
    const auto count = static_cast<int32_t>(
        static_cast<uint32_t>(hn::GetLane(hn::SumOfLanes(di, counts[h]))) - magics);
    // What all weights weigh goes to the mean code of the rounded ones.
    const VF32 factor = hn::Set(d, count > 0 ? span.sum[h] / static_cast<float>(count) : 0);
    for (int p = 0; p < kPieces; ++p) {
      float* low = totals[h][piece + p][0];
      float* high = totals[h][piece + p][1];
      hn::StoreU(hn::MulAdd(hn::ConvertTo(d, dots[h][p].Low()), factor, hn::LoadU(d, low)), d, low);
      hn::StoreU(hn::MulAdd(hn::ConvertTo(d, dots[h][p].High()), factor, hn::LoadU(d, high)), d,
                 high);
    }
  }
}

template <int kHeads>
HWY_INLINE void AddSpan(const LabelBlocks& labels, const float* const* weights,
                        const Span<kHeads>& span, float (&totals)[kHeads][kMaxPieces][2][kLanes]) {
  const int pieces = labels.width / 8;
  int piece = 0;
  // As many pieces at a time as there are registers for.
  if constexpr (kLanes == 16) {
    for (; piece + 4 <= pieces; piece += 4)
      AddPieces<kHeads, 4>(labels, weights, span, piece, totals);
    for (; piece + 2 <= pieces; piece += 2)
      AddPieces<kHeads, 2>(labels, weights, span, piece, totals);
  }
  for (; piece < pieces; ++piece) AddPieces<kHeads, 1>(labels, weights, span, piece, totals);
}

template <int kHeads>
void SumTile(const LabelBlocks& labels, const TokensLeftOut& left_out, float* const* weights,
             float* const* sums) {
  const int tokens = (labels.tokens + kPanelTokens - 1) / kPanelTokens * kPanelTokens;
  float totals[kHeads][kMaxPieces][2][kLanes] = {};
  for (int h = 0; h < kHeads; ++h) {
    std::fill(weights[h] + labels.tokens, weights[h] + tokens, 0.0f);
    sums[h][0] = 0;
  }
  auto next = left_out.positions.begin();
  for (int begin = 0; begin < tokens; begin += kScaleTokens) {
    const int end = std::min(tokens, begin + kScaleTokens);
    for (; next != left_out.positions.end() && *next - left_out.first < end; ++next) {
      for (int h = 0; h < kHeads; ++h) weights[h][*next - left_out.first] = 0;
    }
    const auto span = SpanOf<kHeads>(weights, begin, end);
    for (int h = 0; h < kHeads; ++h) sums[h][0] += span.sum[h];
    AddSpan<kHeads>(labels, weights, span, totals);
  }
  for (int h = 0; h < kHeads; ++h) {
    for (int i = 0; i < labels.width; ++i) {
      float sum = 0;
      for (int lane = i % 4; lane < kLanes; lane += 4) sum += totals[h][i / 8][i / 4 % 2][lane];
      sums[h][1 + i] = sum;
    }
  }
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
