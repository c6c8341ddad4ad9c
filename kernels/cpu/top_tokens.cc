#include "kernels/cpu/top_tokens.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <functional>
#include <vector>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/top_tokens.cc"
#include "hwy/foreach_target.h"
// After foreach_target:
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace winnow::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using F32 = hn::CappedTag<float, 16>;
using I32 = hn::RebindToSigned<F32>;
using VF32 = hn::Vec<F32>;
constexpr int kLanes = static_cast<int>(hn::MaxLanes(F32()));

// 2^x for x <= 0, 0 below -126. 2^fraction by a polynomial that is exact at 0 and 1, so that the
// whole is continuous and monotonic.
HWY_INLINE VF32 Exp2(VF32 x) {
  const F32 d;
  const I32 di;
  const VF32 floor = hn::Floor(x);
  const VF32 f = hn::Sub(x, floor);
  VF32 p = hn::MulAdd(f, hn::Set(d, 0.0820645f), hn::Set(d, 0.2210841f));
  p = hn::MulAdd(f, p, hn::Set(d, 0.6968514f));
  p = hn::MulAdd(f, p, hn::Set(d, 1.0f));
  const auto exponent = hn::ShiftLeft<23>(hn::ConvertTo(di, floor));
  const VF32 scaled = hn::BitCast(d, hn::Add(hn::BitCast(di, p), exponent));
  return hn::IfThenElseZero(hn::Ge(x, hn::Set(d, -126.0f)), scaled);
}

float SoftmaxWeights2(int count, float* scores, float* max) {
  const F32 d;
  const int padded = (count + kLanes - 1) / kLanes * kLanes;
  std::fill(scores + count, scores + padded, -INFINITY);
  VF32 largest = hn::LoadU(d, scores);
  for (int t = kLanes; t < padded; t += kLanes) {
    largest = hn::Max(largest, hn::LoadU(d, scores + t));
  }
  *max = hn::GetLane(hn::MaxOfLanes(d, largest));
  const VF32 shift = hn::Set(d, *max);
  VF32 sum = hn::Zero(d);
  for (int t = 0; t < padded; t += kLanes) {
    const VF32 weight = Exp2(hn::Sub(hn::LoadU(d, scores + t), shift));
    hn::StoreU(weight, d, scores + t);
    sum = hn::Add(sum, weight);
  }
  return hn::GetLane(hn::SumOfLanes(d, sum));
}

void WeightedSum(const float* const* weights, const float* factors, int heads, int count,
                 float* out) {
  const F32 d;
  for (int t = 0; t < count; t += kLanes) {
    VF32 sum = hn::Mul(hn::LoadU(d, weights[0] + t), hn::Set(d, factors[0]));
    for (int h = 1; h < heads; ++h) {
      sum = hn::MulAdd(hn::LoadU(d, weights[h] + t), hn::Set(d, factors[h]), sum);
    }
    hn::StoreU(sum, d, out + t);
  }
}

// Calls found(t) in ascending order for the t in [0, count) whose weight is in [low, high).
template <typename Found>
HWY_INLINE void ForEachInRange(const float* weights, int count, float low, float high,
                               const Found& found) {
  const F32 d;
  const VF32 lows = hn::Set(d, low);
  const VF32 highs = hn::Set(d, high);
  for (int t = 0; t < count; t += kLanes) {
    const VF32 w = hn::LoadU(d, weights + t);
    uint8_t bytes[8] = {};
    hn::StoreMaskBits(d, hn::And(hn::Ge(w, lows), hn::Lt(w, highs)), bytes);
    uint32_t bits = bytes[0] | uint32_t{bytes[1]} << 8;
    if (t + kLanes > count) bits &= (1u << (count - t)) - 1;
    for (; bits != 0; bits &= bits - 1) found(t + std::countr_zero(bits));
  }
}

// Positive floats are ordered as their bits. Buckets of their upper bits (exponent and the first
// bits of the mantissa) tell in which bucket the k-th largest lies; only that one is sorted.
void TopTokens(const float* weights, int count, int k, int32_t base, int32_t* out) {
  constexpr int kShift = 20;
  constexpr int kBuckets = 1 << (31 - kShift);
  if (k == 0) return;
  if (k == count) {
    for (int t = 0; t < count; ++t) out[t] = base + t;
    return;
  }
  // Four counts, so that neighbours in one bucket do not wait for each other.
  static thread_local std::array<std::array<int32_t, kBuckets>, 4> counts;
  static thread_local std::vector<float> candidates;
  for (auto& part : counts) part.fill(0);
  const auto bucket = [&](int t) { return std::bit_cast<uint32_t>(weights[t]) >> kShift; };
  int t = 0;
  for (; t + 4 <= count; t += 4) {
    for (int i = 0; i < 4; ++i) ++counts[i][bucket(t + i)];
  }
  for (; t < count; ++t) ++counts[0][bucket(t)];

  int above = 0;  // weights in higher buckets
  int b = kBuckets - 1;
  for (;; --b) {
    const int here = counts[0][b] + counts[1][b] + counts[2][b] + counts[3][b];
    if (above + here >= k) break;
    above += here;
  }
  const float low = std::bit_cast<float>(static_cast<uint32_t>(b) << kShift);
  const float high = std::bit_cast<float>(static_cast<uint32_t>(b + 1) << kShift);
  candidates.clear();
  ForEachInRange(weights, count, low, high, [&](int t) { candidates.push_back(weights[t]); });
  const auto last = candidates.begin() + (k - above - 1);
  std::nth_element(candidates.begin(), last, candidates.end(), std::greater<>());
  const float threshold = *last;
  // nth_element leaves what is larger in front of `last`.
  const auto larger =
      std::count_if(candidates.begin(), last, [&](float weight) { return weight > threshold; });
  int ties = k - above - static_cast<int>(larger);  // of the equal ones, the first so many

  ForEachInRange(weights, count, threshold, INFINITY, [&](int t) {
    if (weights[t] == threshold && ties-- <= 0) return;
    *out++ = base + t;
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace winnow::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace winnow::cpu {

HWY_EXPORT(SoftmaxWeights2);
HWY_EXPORT(WeightedSum);
HWY_EXPORT(TopTokens);

float SoftmaxWeights2(int count, float* scores, float* max) {
  return HWY_DYNAMIC_DISPATCH(SoftmaxWeights2)(count, scores, max);
}

void WeightedSum(const float* const* weights, const float* factors, int heads, int count,
                 float* out) {
  HWY_DYNAMIC_DISPATCH(WeightedSum)(weights, factors, heads, count, out);
}

void TopTokens(const float* weights, int count, int k, int32_t base, int32_t* out) {
  HWY_DYNAMIC_DISPATCH(TopTokens)(weights, count, k, base, out);
}

}  // namespace winnow::cpu
#endif  // HWY_ONCE
