#include "kernels/cpu/attention.h"

#include <algorithm>
#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attention.cc"
#include "hwy/foreach_target.h"
// After foreach_target:
#include "hwy/cache_control.h"
#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace winnow::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using F32 = hn::CappedTag<float, 16>;
using F16 = hn::Rebind<hwy::float16_t, F32>;
using VF32 = hn::Vec<F32>;
constexpr int kLanes = static_cast<int>(hn::MaxLanes(F32()));
// Query rows that share each converted key or value.
constexpr int kTileRows = 3;
// Keys whose products are summed across lanes together.
constexpr int kTileKeys = 4;

HWY_INLINE VF32 LoadHalf(const uint16_t* p) {
  return hn::PromoteTo(F32(), hn::LoadU(F16(), reinterpret_cast<const hwy::float16_t*>(p)));
}

// Sums of the lanes of four vectors, as four lanes.
HWY_INLINE hn::Vec<hn::Full128<float>> SumsOfLanes(VF32 a, VF32 b, VF32 c, VF32 e) {
  const hn::Full128<float> d4;
  const auto fold = [&](VF32 v) {
#if HWY_CAP_GE512
    const hn::Full256<float> d8;
    const auto half = hn::Add(hn::LowerHalf(d8, v), hn::UpperHalf(d8, v));
    return hn::Add(hn::LowerHalf(d4, half), hn::UpperHalf(d4, half));
#elif HWY_CAP_GE256
    return hn::Add(hn::LowerHalf(d4, v), hn::UpperHalf(d4, v));
#else
    return v;
#endif
  };
  const auto pairs = [&](auto x, auto y) {  // [x0 + x1, x2 + x3, y0 + y1, y2 + y3]
    return hn::Add(hn::ConcatEven(d4, y, x), hn::ConcatOdd(d4, y, x));
  };
  return pairs(pairs(fold(a), fold(b)), pairs(fold(c), fold(e)));
}

// scores[r][j] = scale * queries[r] . keys[j] for kTileKeys consecutive keys.
template <int kRows>
HWY_INLINE void ScoreKeys(const uint16_t* keys, int head_dim, const float* const* queries,
                          float scale, float* const* scores) {
  const F32 d;
  const hn::Full128<float> d4;
  VF32 sums[kRows][kTileKeys];
  for (auto& row : sums) std::fill(std::begin(row), std::end(row), hn::Zero(d));
  for (int c = 0; c < head_dim; c += kLanes) {
    // Queries stay, keys pass one by one: with 16 registers there is room for either.
    VF32 q[kRows];
    for (int r = 0; r < kRows; ++r) q[r] = hn::LoadU(d, queries[r] + c);
    for (int j = 0; j < kTileKeys; ++j) {
      const VF32 k = LoadHalf(keys + j * head_dim + c);
      for (int r = 0; r < kRows; ++r) sums[r][j] = hn::MulAdd(q[r], k, sums[r][j]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    const auto dots = SumsOfLanes(sums[r][0], sums[r][1], sums[r][2], sums[r][3]);
    hn::StoreU(hn::Mul(dots, hn::Set(d4, scale)), d4, scores[r]);
  }
}

// scores[0, count) become exp(score - max), those up to the next multiple of kLanes 0.
void SoftmaxWeights(int count, float* scores, Partial* partial) {
  const F32 d;
  const int padded = (count + kLanes - 1) / kLanes * kLanes;
  std::fill(scores + count, scores + padded, -INFINITY);
  VF32 largest = hn::LoadU(d, scores);
  for (int j = kLanes; j < padded; j += kLanes) {
    largest = hn::Max(largest, hn::LoadU(d, scores + j));
  }
  partial->max = hn::GetLane(hn::MaxOfLanes(d, largest));
  const VF32 max = hn::Set(d, partial->max);
  VF32 sum = hn::Zero(d);
  for (int j = 0; j < padded; j += kLanes) {
    const VF32 score = hn::LoadU(d, scores + j);
    // Masked explicitly: exp of -inf would do, but its polynomial may yield a NaN on the way.
    const VF32 weight =
        hn::IfThenZeroElse(hn::Eq(score, hn::Set(d, -INFINITY)), hn::Exp(d, hn::Sub(score, max)));
    hn::StoreU(weight, d, scores + j);
    sum = hn::Add(sum, weight);
  }
  partial->sum = hn::GetLane(hn::SumOfLanes(d, sum));
}

// outs[r][c, c + kVectors kLanes) += sum_j weights[r][j] values[j], over `count` consecutive
// values.
template <int kRows, int kVectors>
HWY_INLINE void AddValues(const uint16_t* values, int head_dim, int count,
                          const float* const* weights, float* const* outs) {
  const F32 d;
  VF32 sums[kRows][kVectors];
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) sums[r][v] = hn::LoadU(d, outs[r] + v * kLanes);
  }
  for (int j = 0; j < count; ++j) {
    VF32 weight[kRows];
    for (int r = 0; r < kRows; ++r) weight[r] = hn::Set(d, weights[r][j]);
    for (int v = 0; v < kVectors; ++v) {
      const VF32 value = LoadHalf(values + j * head_dim + v * kLanes);
      for (int r = 0; r < kRows; ++r) sums[r][v] = hn::MulAdd(weight[r], value, sums[r][v]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) hn::StoreU(sums[r][v], d, outs[r] + v * kLanes);
  }
}

// Asks for the bytes of `rows` keys or values. Blocks of one head lie apart, which the processor's
// own prefetching does not foresee.
HWY_INLINE void PrefetchRows(const uint16_t* first, int rows, int head_dim) {
  constexpr int kLineElements = 32;
  for (int i = 0; i < rows * head_dim; i += kLineElements) hwy::Prefetch(first + i);
}

// kRows rows over the whole chunk. Rows beyond a row's count are computed but weigh nothing.
template <int kRows>
void AttendRows(const AttentionChunk& chunk, const float* const* queries, const int* counts,
                float scale, float* scores, Partial* partials) {
  const int positions = *std::max_element(counts, counts + kRows);
  const int head_dim = chunk.head_dim;
  float* row_scores[kRows];
  float* outs[kRows];
  for (int r = 0; r < kRows; ++r) {
    row_scores[r] = scores + r * kChunkTokens;
    outs[r] = partials[r].out;
    std::fill(outs[r], outs[r] + head_dim, 0.0f);
  }
  for (int j = 0; j < positions; j += kTileKeys) {
    float* at[kRows];
    for (int r = 0; r < kRows; ++r) at[r] = row_scores[r] + j;
    const uint16_t* keys = chunk.keys[j / chunk.block_tokens] + j % chunk.block_tokens * head_dim;
    ScoreKeys<kRows>(keys, head_dim, queries, scale, at);
  }
  for (int r = 0; r < kRows; ++r) {
    SoftmaxWeights(counts[r], row_scores[r], &partials[r]);
    // Weights of positions that other rows of the tile see and this one does not.
    const int padded = (counts[r] + kLanes - 1) / kLanes * kLanes;
    if (padded < positions) std::fill(row_scores[r] + padded, row_scores[r] + positions, 0.0f);
  }
  for (int j = 0; j < positions; j += chunk.block_tokens) {
    const uint16_t* values = chunk.values[j / chunk.block_tokens];
    const int count = std::min(chunk.block_tokens, positions - j);
    if (j + chunk.block_tokens < positions) {
      PrefetchRows(chunk.values[j / chunk.block_tokens + 1], chunk.block_tokens, head_dim);
    }
    float* weights[kRows];
    for (int r = 0; r < kRows; ++r) weights[r] = row_scores[r] + j;
    constexpr int kVectors = kLanes == 16 ? 1 : 2;  // steps of 16 dimensions, any head size
    for (int c = 0; c < head_dim;) {
      float* at[kRows];
      for (int r = 0; r < kRows; ++r) at[r] = outs[r] + c;
      if (head_dim - c >= 4 * kLanes) {
        AddValues<kRows, 4>(values + c, head_dim, count, weights, at);
        c += 4 * kLanes;
      } else {
        AddValues<kRows, kVectors>(values + c, head_dim, count, weights, at);
        c += kVectors * kLanes;
      }
    }
  }
}

void AttendChunk(const AttentionChunk& chunk, const float* const* queries, const int* counts,
                 int rows, float scale, float* scores, Partial* partials) {
  for (int r = 0; r < rows; r += kTileRows) {
    switch (std::min(kTileRows, rows - r)) {
      case 1:
        AttendRows<1>(chunk, queries + r, counts + r, scale, scores, partials + r);
        break;
      case 2:
        AttendRows<2>(chunk, queries + r, counts + r, scale, scores, partials + r);
        break;
      default:
        AttendRows<3>(chunk, queries + r, counts + r, scale, scores, partials + r);
        break;
    }
  }
}

void MergePartial(const Partial& next, int head_dim, Partial* total) {
  const F32 d;
  const float max = std::max(total->max, next.max);
  const float keep = std::exp(total->max - max);
  const float add = std::exp(next.max - max);
  total->max = max;
  total->sum = total->sum * keep + next.sum * add;
  const VF32 keeps = hn::Set(d, keep);
  const VF32 adds = hn::Set(d, add);
  for (int c = 0; c < head_dim; c += kLanes) {
    const VF32 kept = hn::Mul(hn::LoadU(d, total->out + c), keeps);
    hn::StoreU(hn::MulAdd(hn::LoadU(d, next.out + c), adds, kept), d, total->out + c);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace winnow::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace winnow::cpu {

HWY_EXPORT(AttendChunk);
HWY_EXPORT(MergePartial);

void AttendChunk(const AttentionChunk& chunk, const float* const* queries, const int* counts,
                 int rows, float scale, float* scores, Partial* partials) {
  HWY_DYNAMIC_DISPATCH(AttendChunk)(chunk, queries, counts, rows, scale, scores, partials);
}

void MergePartial(const Partial& next, int head_dim, Partial* total) {
  HWY_DYNAMIC_DISPATCH(MergePartial)(next, head_dim, total);
}

}  // namespace winnow::cpu
#endif  // HWY_ONCE
