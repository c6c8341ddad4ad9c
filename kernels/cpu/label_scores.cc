#include "kernels/cpu/label_scores.h"

#include <algorithm>
#include <bit>
#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/label_scores.cc"
#include "hwy/foreach_target.h"
// After foreach_target:
#include "hwy/cache_control.h"
#include "hwy/highway.h"
#include "kernels/cpu/integer_dot-inl.h"

HWY_BEFORE_NAMESPACE();
#if HWY_TARGET == HWY_AVX3_DL
#pragma GCC target("avx512vnni")
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
}

// One vector of tokens, kHeads query heads.
template <int kHeads>
HWY_INLINE void ScoreVector(const uint8_t* codes, int width, const LabelQuery* queries,
                            float* const* scores, int64_t at) {
  const F32 d;
  VI32 sums[kHeads];
  for (auto& sum : sums) sum = hn::Zero(I32());
  for (int begin = 0; begin < width; begin += kDotDimensions) {
    UnsignedDot dots[kHeads];
    for (int i = begin; i < std::min(width, begin + kDotDimensions); i += 8) {
      const Raw packed = LoadRaw(codes + i / 8 * 4 * kPanelTokens);
      const Raw even = LowNibbles(packed);
      const Raw odd = HighNibbles(packed);
      for (int h = 0; h < kHeads; ++h) dots[h].Add(even, LoadQuad(queries[h].codes + i));
      for (int h = 0; h < kHeads; ++h) dots[h].Add(odd, LoadQuad(queries[h].codes + i + 4));
    }
    for (int h = 0; h < kHeads; ++h) sums[h] = hn::Add(sums[h], dots[h].Sum());
  }
  for (int h = 0; h < kHeads; ++h) {
    hn::StoreU(hn::Mul(hn::ConvertTo(d, sums[h]), hn::Set(d, queries[h].scale)), d, scores[h] + at);
  }
}

template <int kHeads>
void ScoreTile(const uint8_t* const* blocks, int block_tokens, int width, const LabelQuery* queries,
               int tokens, float* const* scores) {
  const int shift = std::countr_zero(static_cast<uint32_t>(block_tokens));
  const auto panel_of = [&](int token) {
    return blocks[token >> shift] + LabelOffset(token & (block_tokens - 1), width);
  };
  for (int token = 0; token < tokens; token += kPanelTokens) {
    // Blocks lie apart, which the processor's own prefetching does not foresee.
    if (token + kAheadTokens < tokens) {
      const uint8_t* ahead = panel_of(token + kAheadTokens);
      for (int byte = 0; byte < 8 * width; byte += 64) hwy::Prefetch(ahead + byte);
    }
    const uint8_t* panel = panel_of(token);
    for (int lane = 0; lane < kPanelTokens; lane += kLanes) {
      ScoreVector<kHeads>(panel + 4 * lane, width, queries, scores, token + lane);
    }
  }
}

void ScoreLabels(const uint8_t* const* blocks, int block_tokens, int width,
                 const LabelQuery* queries, int heads, int tokens, float* const* scores) {
  for (int h = 0; h < heads; h += kTileHeads) {
    switch (std::min(kTileHeads, heads - h)) {
      case 1:
        ScoreTile<1>(blocks, block_tokens, width, queries + h, tokens, scores + h);
        break;
      case 2:
        ScoreTile<2>(blocks, block_tokens, width, queries + h, tokens, scores + h);
        break;
      case 3:
        ScoreTile<3>(blocks, block_tokens, width, queries + h, tokens, scores + h);
        break;
      default:
        ScoreTile<4>(blocks, block_tokens, width, queries + h, tokens, scores + h);
        break;
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace winnow::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace winnow::cpu {

HWY_EXPORT(WriteLabel);
HWY_EXPORT(ProjectQuery);
HWY_EXPORT(ScoreLabels);

void WriteLabel(const float* key, const float* basis, const float* offset, int head_dim, int width,
                uint8_t* label) {
  HWY_DYNAMIC_DISPATCH(WriteLabel)(key, basis, offset, head_dim, width, label);
}

void ProjectQuery(const float* query, const float* basis, int head_dim, int width, float scale_by,
                  LabelQuery* out) {
  HWY_DYNAMIC_DISPATCH(ProjectQuery)(query, basis, head_dim, width, scale_by, out);
}

void ScoreLabels(const uint8_t* const* blocks, int block_tokens, int width,
                 const LabelQuery* queries, int heads, int tokens, float* const* scores) {
  HWY_DYNAMIC_DISPATCH(ScoreLabels)(blocks, block_tokens, width, queries, heads, tokens, scores);
}

}  // namespace winnow::cpu
#endif  // HWY_ONCE
