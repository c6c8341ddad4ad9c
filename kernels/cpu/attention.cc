#include "kernels/cpu/attention.h"

#include <algorithm>
#include <cmath>
#include <type_traits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attention.cc"
#include "hwy/foreach_target.h"
// After foreach_target:
#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"
#include "kernels/cpu/read_once-inl.h"

HWY_BEFORE_NAMESPACE();
namespace winnow::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using F32 = hn::CappedTag<float, 16>;
using F16 = hn::Rebind<hwy::float16_t, F32>;
using VF32 = hn::Vec<F32>;
constexpr int kLanes = static_cast<int>(hn::MaxLanes(F32()));
// How many rows ahead of their use keys and values are asked for: a multiple of kTileKeys.
constexpr int kAhead = 24;
constexpr int kLineElements = 32;  // of a cache line
// Query rows that share each converted key or value: as many as registers hold sums for.
constexpr int kTileRows = HWY_CAP_GE512 ? 6 : 3;

HWY_INLINE VF32 LoadHalf(const uint16_t* p) {
  return hn::PromoteTo(F32(), hn::LoadU(F16(), reinterpret_cast<const hwy::float16_t*>(p)));
}

// Sums of the lanes of four vectors, as four lanes. Halves are added until four lanes are left,
// then neighbours, then pairs.
#if HWY_TARGET == HWY_AVX3_DL
HWY_INLINE hn::Vec<hn::Full128<float>> SumsOfLanes(VF32 a, VF32 b, VF32 c, VF32 e) {
  const auto halves = [](__m512 x, __m512 y) {  // [x lower + upper half, y lower + upper half]
    return _mm512_add_ps(_mm512_shuffle_f32x4(x, y, 0x44), _mm512_shuffle_f32x4(x, y, 0xEE));
  };
  const __m512 ab = halves(a.raw, b.raw);
  const __m512 ce = halves(c.raw, e.raw);
  __m512 sums = _mm512_add_ps(_mm512_shuffle_f32x4(ab, ce, 0x88),  // 128 bits of each vector
                              _mm512_shuffle_f32x4(ab, ce, 0xDD));
  sums = _mm512_add_ps(sums, _mm512_permute_ps(sums, 0xB1));
  sums = _mm512_add_ps(sums, _mm512_permute_ps(sums, 0x4E));
  return hn::Vec<hn::Full128<float>>{
      _mm512_castps512_ps128(_mm512_maskz_compress_ps(0x1111, sums))};
}
#else
HWY_INLINE hn::Vec<hn::Full128<float>> SumsOfLanes(VF32 a, VF32 b, VF32 c, VF32 e) {
  const hn::Full128<float> d4;
  const auto fold = [&](VF32 v) {
#if HWY_CAP_GE256
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
#endif

// What a pass asks for while it reads row `row` at `offset`: the row kAhead further on, or when
// rows run out one of the first, for the next pass, which reads them at `next`. Rows of selections
// and of blocks lie apart, which the processor's own prefetching does not foresee. They are asked
// for one line at a time, between products, because a processor waits for few lines at once.
struct RowsAhead {
  const uint16_t* const* keys;
  int64_t offset;  // elements after each key

  HWY_INLINE RowsAhead(const uint16_t* const* all, int count, int row, int64_t at, int64_t next) {
    const int ahead = row + kAhead;
    const int first = ahead - count < count ? ahead - count : 0;
    keys = all + (ahead < count ? ahead : first);
    offset = ahead < count ? at : next;
  }
};

// scores[r][j] = scale * queries[r] . keys[j] for kTileKeys keys.
template <int kRows>
HWY_INLINE void ScoreTile(const uint16_t* const* keys, const RowsAhead& ahead, int head_dim,
                          const float* const* queries, float scale, float* const* scores) {
  constexpr int kKeyStep = kLineElements / kTileKeys;  // elements per line that is asked for
  const F32 d;
  const hn::Full128<float> d4;
  VF32 sums[kRows][kTileKeys];
  for (auto& row : sums) std::fill(std::begin(row), std::end(row), hn::Zero(d));
  for (int c = 0; c < head_dim; c += kLanes) {
    // Queries stay, keys pass one by one: with 16 registers there is room for either.
    VF32 q[kRows];
    for (int r = 0; r < kRows; ++r) q[r] = hn::LoadU(d, queries[r] + c);
    for (int j = 0; j < kTileKeys; ++j) {
      const VF32 k = LoadHalf(keys[j] + c);
      for (int r = 0; r < kRows; ++r) sums[r][j] = hn::MulAdd(q[r], k, sums[r][j]);
    }
    // One line of each key while the vectors of a line pass.
    for (int i = 0; i < std::max(1, kLanes / kKeyStep); ++i) {
      const uint16_t* row = ahead.keys[(c / kKeyStep + i) % kTileKeys];
      __builtin_prefetch(row + ahead.offset + c / kLineElements * kLineElements, 0, kReadOnce);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    const auto dots = SumsOfLanes(sums[r][0], sums[r][1], sums[r][2], sums[r][3]);
    hn::StoreU(hn::Mul(dots, hn::Set(d4, scale)), d4, scores[r]);
  }
}

// Scores of `count` positions, before a pass over their values.
template <int kRows>
HWY_INLINE void ScoreRows(const KvRows& kv, const float* const* queries, int count, float scale,
                          float* const* scores) {
  const int padded = (count + kTileKeys - 1) / kTileKeys * kTileKeys;
  for (int j = 0; j < std::min(kAhead, count); ++j) {
    for (int c = 0; c < kv.head_dim; c += kLineElements) {
      __builtin_prefetch(kv.keys[j] + c, 0, kReadOnce);
    }
  }
  for (int j = 0; j < padded; j += kTileKeys) {
    const RowsAhead ahead(kv.keys, padded, j, 0, kv.head_dim);
    float* at[kRows];
    for (int r = 0; r < kRows; ++r) at[r] = scores[r] + j;
    ScoreTile<kRows>(kv.keys + j, ahead, kv.head_dim, queries, scale, at);
  }
}

// scores[j] = cap tanh(scores[j] / cap) from `begin` to `end`, whole vectors of `d`.
template <typename D>
HWY_NOINLINE void CapScores(D d, float cap, int begin, int end, float* scores) {
  const auto caps = hn::Set(d, cap);
  const auto inverse = hn::Set(d, 1 / cap);
  for (int j = begin; j < end; j += static_cast<int>(hn::Lanes(d))) {
    const auto scaled = hn::Mul(hn::LoadU(d, scores + j), inverse);
    hn::StoreU(hn::Mul(caps, hn::Tanh(d, scaled)), d, scores + j);
  }
}

// The multiples of kLanes around what is visible.
HWY_INLINE Visible WholeVectors(const Visible& visible) {
  return {visible.begin / kLanes * kLanes, (visible.end + kLanes - 1) / kLanes * kLanes};
}

// Visible scores become exp(score - max), those beside them in the same vectors 0.
void SoftmaxWeights(const Visible& visible, float* scores, Partial* partial) {
  const F32 d;
  const Visible whole = WholeVectors(visible);
  std::fill(scores + whole.begin, scores + visible.begin, -INFINITY);
  std::fill(scores + visible.end, scores + whole.end, -INFINITY);
  VF32 largest = hn::LoadU(d, scores + whole.begin);
  for (int j = whole.begin + kLanes; j < whole.end; j += kLanes) {
    largest = hn::Max(largest, hn::LoadU(d, scores + j));
  }
  partial->max = hn::GetLane(hn::MaxOfLanes(d, largest));
  const VF32 max = hn::Set(d, partial->max);
  VF32 sum = hn::Zero(d);
  for (int j = whole.begin; j < whole.end; j += kLanes) {
    const VF32 score = hn::LoadU(d, scores + j);
    // Masked explicitly: exp of -inf would do, but its polynomial may yield a NaN on the way.
    const VF32 weight =
        hn::IfThenZeroElse(hn::Eq(score, hn::Set(d, -INFINITY)), hn::Exp(d, hn::Sub(score, max)));
    hn::StoreU(weight, d, scores + j);
    sum = hn::Add(sum, weight);
  }
  partial->sum = hn::GetLane(hn::SumOfLanes(d, sum));
}

// outs[r][c, c + kVectors kLanes) += sum_j weights[r][j] v_j, dimensions from `offset` elements
// after the keys on. The next pass reads at `next`.
template <int kRows, int kVectors>
HWY_INLINE void AddValues(const uint16_t* const* keys, int64_t offset, int64_t next, int count,
                          const float* const* weights, float* const* outs) {
  constexpr int kElements = kVectors * kLanes;
  const F32 d;
  VF32 sums[kRows][kVectors];
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) sums[r][v] = hn::LoadU(d, outs[r] + v * kLanes);
  }
  for (int j = 0; j < count; ++j) {
    const uint16_t* at = keys[j] + offset;
    const RowsAhead ahead(keys, count, j, offset, next);
    for (int c = 0; c < kElements; c += kLineElements) {
      __builtin_prefetch(*ahead.keys + ahead.offset + c, 0, kReadOnce);
    }
    VF32 weight[kRows];
    for (int r = 0; r < kRows; ++r) weight[r] = hn::Set(d, weights[r][j]);
    for (int v = 0; v < kVectors; ++v) {
      const VF32 value = LoadHalf(at + v * kLanes);
      for (int r = 0; r < kRows; ++r) sums[r][v] = hn::MulAdd(weight[r], value, sums[r][v]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) hn::StoreU(sums[r][v], d, outs[r] + v * kLanes);
  }
}

// kRows rows over what any of them sees of the chunk. Positions that a row does not see are
// computed but weigh nothing.
template <int kRows>
void AttendRows(const KvRows& kv, const float* const* queries, const Visible* visible,
                const ScoreForm& form, float* scores, Partial* partials) {
  int first = kChunkTokens;
  int end = 0;
  for (int r = 0; r < kRows; ++r) {
    first = std::min(first, visible[r].begin / kTileKeys * kTileKeys);
    end = std::max(end, visible[r].end);
    std::fill(partials[r].out, partials[r].out + kv.head_dim, 0.0f);
  }
  const KvRows seen{kv.keys + first, kv.head_dim};
  const int positions = end - first;
  float* row_scores[kRows];  // of the positions from `first` on
  for (int r = 0; r < kRows; ++r) row_scores[r] = scores + r * kChunkTokens + first;
  ScoreRows<kRows>(seen, queries, positions, form.scale, row_scores);
  for (int r = 0; r < kRows; ++r) {
    float* of_row = scores + r * kChunkTokens;
    const Visible whole = WholeVectors(visible[r]);
    if (form.soft_cap > 0) CapScores(F32(), form.soft_cap, whole.begin, whole.end, of_row);
    SoftmaxWeights(visible[r], of_row, &partials[r]);
    // Weights of positions that other rows of the tile see and this one does not.
    if (first < whole.begin) std::fill(of_row + first, of_row + whole.begin, 0.0f);
    if (whole.end < end) std::fill(of_row + whole.end, of_row + end, 0.0f);
  }
  constexpr int kVectors = kLanes == 16 ? 1 : 2;  // steps of 16 dimensions, any head size
  for (int c = 0; c < kv.head_dim;) {
    float* at[kRows];
    for (int r = 0; r < kRows; ++r) at[r] = partials[r].out + c;
    const bool wide = kv.head_dim - c >= 4 * kLanes;
    const int offset = kv.head_dim + c;
    c += (wide ? 4 : kVectors) * kLanes;
    const int next = kv.head_dim + (c < kv.head_dim ? c : 0);
    if (wide) {
      AddValues<kRows, 4>(seen.keys, offset, next, positions, row_scores, at);
    } else {
      AddValues<kRows, kVectors>(seen.keys, offset, next, positions, row_scores, at);
    }
  }
}

// Calls body with std::integral_constant<int, rows>, rows at most kTileRows.
template <typename Body>
HWY_INLINE void WithRows(int rows, const Body& body) {
  switch (rows) {
    case 1:
      return body(std::integral_constant<int, 1>());
    case 2:
      return body(std::integral_constant<int, 2>());
    case 3:
      return body(std::integral_constant<int, 3>());
#if HWY_CAP_GE512
    case 4:
      return body(std::integral_constant<int, 4>());
    case 5:
      return body(std::integral_constant<int, 5>());
    case 6:
      return body(std::integral_constant<int, 6>());
#endif
  }
}

void AttendChunk(const KvRows& kv, const float* const* queries, const Visible* visible, int rows,
                 const ScoreForm& form, float* scores, Partial* partials) {
  for (int r = 0; r < rows; r += kTileRows) {
    WithRows(std::min(kTileRows, rows - r), [&](auto tile) {
      AttendRows<tile()>(kv, queries + r, visible + r, form, scores, partials + r);
    });
  }
}

void ScoreKeys(const KvRows& kv, const float* const* queries, int rows, int count,
               const ScoreForm& form, float* const* scores) {
  for (int r = 0; r < rows; r += kTileRows) {
    WithRows(std::min(kTileRows, rows - r),
             [&](auto tile) { ScoreRows<tile()>(kv, queries + r, count, form.scale, scores + r); });
  }
  if (form.soft_cap == 0) return;
  for (int r = 0; r < rows; ++r) {
    CapScores(hn::Full128<float>(), form.soft_cap, 0, count, scores[r]);
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
HWY_EXPORT(ScoreKeys);
HWY_EXPORT(MergePartial);

void AttendChunk(const KvRows& kv, const float* const* queries, const Visible* visible, int rows,
                 const ScoreForm& form, float* scores, Partial* partials) {
  HWY_DYNAMIC_DISPATCH(AttendChunk)(kv, queries, visible, rows, form, scores, partials);
}

void ScoreKeys(const KvRows& kv, const float* const* queries, int rows, int count,
               const ScoreForm& form, float* const* scores) {
  HWY_DYNAMIC_DISPATCH(ScoreKeys)(kv, queries, rows, count, form, scores);
}

void MergePartial(const Partial& next, int head_dim, Partial* total) {
  HWY_DYNAMIC_DISPATCH(MergePartial)(next, head_dim, total);
}

}  // namespace winnow::cpu
#endif  // HWY_ONCE
