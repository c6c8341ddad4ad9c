#include "kernels/cpu/label_scores.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <type_traits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/label_scores.cc"
#include "hwy/foreach_target.h"
// After foreach_target:
#include "hwy/cache_control.h"
#include "hwy/highway.h"
#include "kernels/cpu/exp2-inl.h"
#include "kernels/cpu/integer_dot-inl.h"

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
// How far ahead of their use labels are asked for.
constexpr int kAheadTokens = 8 * kPanelTokens;
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
    return static_cast<uint8_t>(std::nearbyint(std::clamp(z[i] + offset[i], 0.0f, 15.0f)));
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
    out->codes[i] = static_cast<int8_t>(std::nearbyint(w[i] * to_code));
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

// Sums of products of one vector of tokens for kHeads query heads. kWidth is the labels' width,
// where it is known: then all loops unroll.
template <int kHeads, int kWidth>
HWY_INLINE void Dots(const uint8_t* codes, int width, const LabelQuery* queries,
                     VI32 (&sums)[kHeads]) {
  if constexpr (kWidth != 0) width = kWidth;
  for (int begin = 0; begin < width; begin += kDotDimensions) {
    UnsignedDot dots[kHeads];
    for (int i = begin; i < std::min(width, begin + kDotDimensions); i += 8) {
      const Raw packed = LoadRaw(codes + i / 8 * 4 * kPanelTokens);
      const Raw even = LowNibbles(packed);
      const Raw odd = HighNibbles(packed);
      for (int h = 0; h < kHeads; ++h) dots[h].Add(even, LoadQuad(queries[h].codes + i));
      for (int h = 0; h < kHeads; ++h) dots[h].Add(odd, LoadQuad(queries[h].codes + i + 4));
    }
    for (int h = 0; h < kHeads; ++h) {
      sums[h] = begin == 0 ? dots[h].Sum() : hn::Add(sums[h], dots[h].Sum());
    }
  }
}

// Calls body(sums, token) for one vector of tokens in [0, tokens) after the other.
template <int kHeads, int kWidth, typename Body>
HWY_INLINE void ForVectors(const LabelBlocks& labels, const LabelQuery* queries, int tokens,
                           WantedRows* wanted, const Body& body) {
  const int width = labels.width;
  const int shift = std::countr_zero(static_cast<uint32_t>(labels.block_tokens));
  const auto panel_of = [&](int token) {
    return labels.blocks[token >> shift] + LabelOffset(token & (labels.block_tokens - 1), width);
  };
  for (int token = 0; token < tokens; token += kPanelTokens) {
    // Blocks lie apart, which the processor's own prefetching does not foresee.
    if (token + kAheadTokens < tokens) {
      const uint8_t* ahead = panel_of(token + kAheadTokens);
      for (int byte = 0; byte < 8 * width; byte += 64) hwy::Prefetch(ahead + byte);
    }
    for (int row = 0; row < wanted->rows_per_panel && wanted->next < wanted->end; ++row) {
      const uint16_t* key = *wanted->next++;
      for (int i = 0; i < wanted->elements; i += 32) hwy::Prefetch(key + i);
    }
    const uint8_t* panel = panel_of(token);
    for (int lane = 0; lane < kPanelTokens; lane += kLanes) {
      VI32 sums[kHeads];
      Dots<kHeads, kWidth>(panel + 4 * lane, width, queries, sums);
      body(sums, token + lane);
    }
  }
}

template <int kHeads, int kWidth>
void WeighTile(const LabelBlocks& labels, const LabelQuery* queries, int tokens,
               float* const* weights, float* sums, WantedRows* wanted) {
  const F32 d;
  hn::Vec<F32> totals[kHeads];
  float* out[kHeads];
  for (int h = 0; h < kHeads; ++h) {
    totals[h] = hn::Zero(d);
    out[h] = weights[h];
  }
  // What lies past the last token is no weight: the sum takes whole panels, then single tokens.
  const int whole = tokens / kPanelTokens * kPanelTokens;
  const auto weigh = [&](const VI32(&dots)[kHeads], int token) {
    hn::Vec<F32> x[kHeads];
    for (int h = 0; h < kHeads; ++h) {
      x[h] = hn::MulAdd(hn::ConvertTo(d, dots[h]), hn::Set(d, queries[h].scale),
                        hn::Set(d, queries[h].bias));
    }
    Exp2(x);
    for (int h = 0; h < kHeads; ++h) hn::StoreU(x[h], d, out[h] + token);
    if (token >= whole) return;
    for (int h = 0; h < kHeads; ++h) totals[h] = hn::Add(totals[h], x[h]);
  };
  ForVectors<kHeads, kWidth>(labels, queries, tokens, wanted, weigh);
  for (int h = 0; h < kHeads; ++h) {
    sums[h] = hn::GetLane(hn::SumOfLanes(d, totals[h]));
    for (int t = whole; t < tokens; ++t) sums[h] += out[h][t];
  }
}

template <int kHeads>
void ScoreTile(const LabelBlocks& labels, const LabelQuery* queries, int tokens,
               float* const* scores) {
  const F32 d;
  const auto score = [&](const VI32(&dots)[kHeads], int token) {
    for (int h = 0; h < kHeads; ++h) {
      hn::StoreU(hn::Mul(hn::ConvertTo(d, dots[h]), hn::Set(d, queries[h].scale)), d,
                 scores[h] + token);
    }
  };
  WantedRows none;
  ForVectors<kHeads, 0>(labels, queries, tokens, &none, score);
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

void WeighLabels(const LabelBlocks& labels, const LabelQuery* queries, int heads, int tokens,
                 float* const* weights, float* sums, WantedRows* wanted) {
  ForTiles(heads, [&](auto tile_heads, int h) {
    switch (labels.width) {
      case 8:
        return WeighTile<tile_heads(), 8>(labels, queries + h, tokens, weights + h, sums + h,
                                          wanted);
      case 16:
        return WeighTile<tile_heads(), 16>(labels, queries + h, tokens, weights + h, sums + h,
                                           wanted);
      case 32:
        return WeighTile<tile_heads(), 32>(labels, queries + h, tokens, weights + h, sums + h,
                                           wanted);
      default:
        return WeighTile<tile_heads(), 0>(labels, queries + h, tokens, weights + h, sums + h,
                                          wanted);
    }
  });
}

void ScoreLabels(const LabelBlocks& labels, const LabelQuery* queries, int heads, int tokens,
                 float* const* scores) {
  ForTiles(heads, [&](auto tile_heads, int h) {
    ScoreTile<tile_heads()>(labels, queries + h, tokens, scores + h);
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

void WeighLabels(const LabelBlocks& labels, const LabelQuery* queries, int heads, int tokens,
                 float* const* weights, float* sums, WantedRows* wanted) {
  HWY_DYNAMIC_DISPATCH(WeighLabels)(labels, queries, heads, tokens, weights, sums, wanted);
}

void ScoreLabels(const LabelBlocks& labels, const LabelQuery* queries, int heads, int tokens,
                 float* const* scores) {
  HWY_DYNAMIC_DISPATCH(ScoreLabels)(labels, queries, heads, tokens, scores);
}

}  // namespace winnow::cpu
#endif  // HWY_ONCE
