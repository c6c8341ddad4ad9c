#include "kernels/cpu/label_scores.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <type_traits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/label_scores.cc"
#include "hwy/foreach_target.h"
// After foreach_target:
#include "hwy/highway.h"
#include "kernels/cpu/exp2-inl.h"
#include "kernels/cpu/integer_dot-inl.h"
#include "kernels/cpu/read_once-inl.h"

#if HWY_TARGET == HWY_AVX3_DL
HWY_PUSH_ATTRIBUTES(HWY_TARGET_STR ",avx512vnni")
#else
HWY_BEFORE_NAMESPACE();
#endif
namespace winnow::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using F32x8 = hn::CappedTag<float, 8>;
using F32 = hn::CappedTag<float, kPanelTokens>;
constexpr int kLanes = static_cast<int>(hn::MaxLanes(F32()));
// Query heads that share each load of codes.
constexpr int kTileHeads = 4;
// Scores within so many powers of two can be weighed relative to the middle of their range: the
// weights and a million's sum stay within what floats hold.
constexpr float kNarrowRange = 200;
// Dimensions whose products UnsignedDot can sum before it overflows.
constexpr int kDotDimensions = 32;

// out[i] = sum_c x[c] basis[c, i]; i in [0, 8 kVectors).
template <int kVectors>
HWY_INLINE void ProjectTo(const float* x, const float* basis, int head_dim, int width, float* out) {
  const F32x8 d;
  constexpr int kStep = static_cast<int>(hn::MaxLanes(F32x8()));
  constexpr int kSums = 8 / kStep * kVectors;
  hn::Vec<F32x8> sums[kSums];
  for (auto& sum : sums) sum = hn::Zero(d);
  for (int c = 0; c < head_dim; ++c) {
    const auto value = hn::Set(d, x[c]);
    const float* row = basis + int64_t{c} * width;
    for (int i = 0; i < kSums; ++i) {
      sums[i] = hn::MulAdd(value, hn::LoadU(d, row + i * kStep), sums[i]);
    }
  }
  for (int i = 0; i < kSums; ++i) hn::StoreU(sums[i], d, out + i * kStep);
}

// The same for i in [0, width).
HWY_INLINE void Project(const float* x, const float* basis, int head_dim, int width, float* out) {
  int i = 0;
  for (; i + 16 <= width; i += 16) ProjectTo<2>(x, basis + i, head_dim, width, out + i);
  if (i < width) ProjectTo<1>(x, basis + i, head_dim, width, out + i);
}

void WriteLabel(const float* key, const float* basis, const float* offset, int head_dim, int width,
                uint8_t* label) {
  float z[kMaxLabelWidth];
  Project(key, basis, head_dim, width, z);
  const auto code = [&](int i) {
    // In this order NaN becomes 0.
    return static_cast<uint8_t>(std::nearbyint(std::min(std::max(0.0f, z[i] + offset[i]), 15.0f)));
  };
  for (int i = 0; i < width; i += 8) {
    for (int j = 0; j < 4; ++j) label[j] = code(i + j) | code(i + 4 + j) << 4;
    label += 4 * kPanelTokens;
  }
}

void ProjectQuery(const float* query, const float* basis, int head_dim, int width, float scale_by,
                  LabelQuery* out) {
  float w[kMaxLabelWidth];
  Project(query, basis, head_dim, width, w);
  float largest = 0;
  for (int i = 0; i < width; ++i) largest = std::max(largest, std::abs(w[i]));
  const float to_code = largest > 0 ? 127 / largest : 0;
  for (int i = 0; i < width; ++i) {
    // A query may be too small or large for that, or no number at all, which becomes a code, too.
    const float code = std::min(std::max(-127.0f, w[i] * to_code), 127.0f);
    out->codes[i] = static_cast<int8_t>(std::nearbyint(code));
  }
  out->scale = largest / 127 * scale_by;
  // Codes of labels are 0 to 15.
  float least = 0;
  float greatest = 0;
  for (int i = 0; i < width; ++i) {
    least += 15 * std::min(out->scale * static_cast<float>(out->codes[i]), 0.0f);
    greatest += 15 * std::max(out->scale * static_cast<float>(out->codes[i]), 0.0f);
  }
  out->bias = -(least + greatest) / 2;
  out->is_narrow = greatest - least <= kNarrowRange;
}

// Sums of products of one vector of tokens for kHeads query heads, of dimensions
// [begin, begin + kDimensions).
template <int kHeads, int kDimensions>
HWY_INLINE void DotsOf(const uint8_t* codes, int begin, const LabelQuery* queries,
                       VI32 (&sums)[kHeads]) {
  static_assert(kDimensions <= kDotDimensions);
  UnsignedDot dots[kHeads];
#pragma GCC unroll 4
  for (int i = begin; i < begin + kDimensions; i += 8) {
    const Raw packed = LoadRaw(codes + i / 8 * 4 * kPanelTokens);
    const Raw even = LowNibbles(packed);
    const Raw odd = HighNibbles(packed);
    for (int h = 0; h < kHeads; ++h) dots[h].Add(even, LoadQuad(queries[h].codes + i));
    for (int h = 0; h < kHeads; ++h) dots[h].Add(odd, LoadQuad(queries[h].codes + i + 4));
  }
  for (int h = 0; h < kHeads; ++h) sums[h] = dots[h].Sum();
}

// The same of all dimensions. kWidth is the labels' width, or 0: then `width` is.
template <int kHeads, int kWidth>
HWY_INLINE void Dots(const uint8_t* codes, int width, const LabelQuery* queries,
                     VI32 (&sums)[kHeads]) {
  constexpr int kDimensions = kWidth == 0 ? 8 : kWidth;
  DotsOf<kHeads, kDimensions>(codes, 0, queries, sums);
  if constexpr (kWidth == 0) {
    for (int begin = kDimensions; begin < width; begin += kDimensions) {
      VI32 more[kHeads];
      DotsOf<kHeads, kDimensions>(codes, begin, queries, more);
      for (int h = 0; h < kHeads; ++h) sums[h] = hn::Add(sums[h], more[h]);
    }
  }
}

// scores[h][t] = queries[h].scale dot[h][t] + bias[h] for the panels that hold tokens [begin, end);
// `begin` is a panel's first.
template <int kHeads, int kWidth>
HWY_INLINE void ScorePanels(const LabelBlocks& labels, const LabelQuery* queries, int begin,
                            int end, const float (&bias)[kHeads], float* const* scores) {
  const F32 d;
  const int width = labels.width;
  const int shift = std::countr_zero(static_cast<uint32_t>(labels.block_tokens));
  const auto panel_of = [&](int token) {
    return labels.blocks[token >> shift] + LabelOffset(token & (labels.block_tokens - 1), width);
  };
  for (int token = begin; token < end; token += kPanelTokens) {
    // Blocks lie apart, which the processor's own prefetching does not foresee.
    if (token + kLabelsAhead < labels.listed) {
      const uint8_t* ahead = panel_of(token + kLabelsAhead);
      for (int byte = 0; byte < 8 * width; byte += 64) {
        __builtin_prefetch(ahead + byte, 0, kReadOnce);
      }
    }
    const uint8_t* panel = panel_of(token);
    for (int lane = 0; lane < kPanelTokens; lane += kLanes) {
      VI32 sums[kHeads];
      Dots<kHeads, kWidth>(panel + 4 * lane, width, queries, sums);
      for (int h = 0; h < kHeads; ++h) {
        hn::StoreU(hn::MulAdd(hn::ConvertTo(d, sums[h]), hn::Set(d, queries[h].scale),
                              hn::Set(d, bias[h])),
                   d, scores[h] + token + lane);
      }
    }
  }
}

// Replaces x[t] by 2^x[t] in the panels that hold tokens [0, count), and returns the sum over the
// tokens.
HWY_INLINE float Exp2Sum(float* x, int count) {
  const F32 d;
  constexpr int kVectors = 4;
  auto total = hn::Zero(d);
  int t = 0;
  for (; t + kVectors * kLanes <= count; t += kVectors * kLanes) {
    hn::Vec<F32> v[kVectors];
    for (int i = 0; i < kVectors; ++i) v[i] = hn::LoadU(d, x + t + i * kLanes);
    Exp2(v);
    for (int i = 0; i < kVectors; ++i) hn::StoreU(v[i], d, x + t + i * kLanes);
    total = hn::Add(total, hn::Add(hn::Add(v[0], v[1]), hn::Add(v[2], v[3])));
  }
  float sum = hn::GetLane(hn::SumOfLanes(d, total));
  // What lies past the last token is no weight.
  for (; t < count; t += kLanes) {
    hn::Vec<F32> v[1] = {hn::LoadU(d, x + t)};
    Exp2(v);
    hn::StoreU(v[0], d, x + t);
    for (int i = t; i < std::min(count, t + kLanes); ++i) sum += x[i];
  }
  return sum;
}

// Scores and exponentials take turns at so many tokens that the first-level cache holds both.
template <int kHeads, int kWidth>
void WeighTile(const LabelBlocks& labels, const LabelQuery* queries, float* const* weights,
               float* sums) {
  constexpr int kTokens = 16 * kPanelTokens;
  float bias[kHeads];
  for (int h = 0; h < kHeads; ++h) {
    bias[h] = queries[h].bias;
    sums[h] = 0;
  }
  for (int begin = 0; begin < labels.tokens; begin += kTokens) {
    const int end = std::min(labels.tokens, begin + kTokens);
    ScorePanels<kHeads, kWidth>(labels, queries, begin, end, bias, weights);
    for (int h = 0; h < kHeads; ++h) sums[h] += Exp2Sum(weights[h] + begin, end - begin);
  }
}

template <int kHeads>
void ScoreTile(const LabelBlocks& labels, const LabelQuery* queries, float* const* scores) {
  const float no_bias[kHeads] = {};
  ScorePanels<kHeads, 0>(labels, queries, 0, labels.tokens, no_bias, scores);
}

// Calls tile(kHeads, first head) for up to kTileHeads heads at a time.
template <typename Tile>
HWY_INLINE void ForTiles(int heads, const Tile& tile) {
  for (int h = 0; h < heads; h += kTileHeads) {
    switch (std::min(kTileHeads, heads - h)) {
      case 1:
        tile(std::integral_constant<int, 1>(), h);
        break;
      case 2:
        tile(std::integral_constant<int, 2>(), h);
        break;
      case 3:
        tile(std::integral_constant<int, 3>(), h);
        break;
      default:
        tile(std::integral_constant<int, 4>(), h);
        break;
    }
  }
}

void WeighLabels(const LabelBlocks& labels, const LabelQuery* queries, int heads,
                 float* const* weights, float* sums) {
  ForTiles(heads, [&](auto tile_heads, int h) {
    switch (labels.width) {
      case 8:
        return WeighTile<tile_heads(), 8>(labels, queries + h, weights + h, sums + h);
      case 16:
        return WeighTile<tile_heads(), 16>(labels, queries + h, weights + h, sums + h);
      case 32:
        return WeighTile<tile_heads(), 32>(labels, queries + h, weights + h, sums + h);
      default:
        return WeighTile<tile_heads(), 0>(labels, queries + h, weights + h, sums + h);
    }
  });
}

void ScoreLabels(const LabelBlocks& labels, const LabelQuery* queries, int heads,
                 float* const* scores) {
  ForTiles(heads, [&](auto tile_heads, int h) {
    ScoreTile<tile_heads()>(labels, queries + h, scores + h);
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace winnow::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace winnow::cpu {

HWY_EXPORT(WriteLabel);
HWY_EXPORT(ProjectQuery);
HWY_EXPORT(WeighLabels);
HWY_EXPORT(ScoreLabels);

void WriteLabel(const float* key, const float* basis, const float* offset, int head_dim, int width,
                uint8_t* label) {
  HWY_DYNAMIC_DISPATCH(WriteLabel)(key, basis, offset, head_dim, width, label);
}

void ProjectQuery(const float* query, const float* basis, int head_dim, int width, float scale_by,
                  LabelQuery* out) {
  HWY_DYNAMIC_DISPATCH(ProjectQuery)(query, basis, head_dim, width, scale_by, out);
}

void WeighLabels(const LabelBlocks& labels, const LabelQuery* queries, int heads,
                 float* const* weights, float* sums) {
  HWY_DYNAMIC_DISPATCH(WeighLabels)(labels, queries, heads, weights, sums);
}

void ScoreLabels(const LabelBlocks& labels, const LabelQuery* queries, int heads,
                 float* const* scores) {
  HWY_DYNAMIC_DISPATCH(ScoreLabels)(labels, queries, heads, scores);
}

}  // namespace winnow::cpu
#endif  // HWY_ONCE
