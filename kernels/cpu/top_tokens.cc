#include "kernels/cpu/top_tokens.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <functional>
#include <numeric>
#include <type_traits>
#include <vector>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/top_tokens.cc"
#include "hwy/foreach_target.h"
// After foreach_target:
#include "hwy/highway.h"
#include "kernels/cpu/exp2-inl.h"

HWY_BEFORE_NAMESPACE();
namespace winnow::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using F32 = hn::CappedTag<float, 16>;
using VF32 = hn::Vec<F32>;
constexpr int kLanes = static_cast<int>(hn::MaxLanes(F32()));
// Room behind candidates for vectors that are read and stored whole.
constexpr size_t kBehind = 16;

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
    VF32 weight[] = {hn::Max(hn::Sub(hn::LoadU(d, scores + t), shift), hn::Set(d, -126.0f))};
    Exp2(weight);
    hn::StoreU(weight[0], d, scores + t);
    sum = hn::Add(sum, weight[0]);
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

// A weight as an integer that is ordered as weights are. What is no weight is larger than all.
constexpr uint32_t kLargestKey = 0x7f800001;  // infinity's and one more
HWY_INLINE uint32_t Key(float weight) {
  return std::min(std::bit_cast<uint32_t>(weight), kLargestKey);
}

#if HWY_CAP_GE512

// Writes the t in [0, count) whose weights are not below `low`, in ascending order, and returns the
// end. Masked stores are slow on AMD processors; so whole vectors are stored and the end moves by
// as many as were chosen.
HWY_INLINE int32_t* Positions(const float* weights, int count, float low, int32_t* end) {
  const F32 d;
  const hn::RebindToSigned<F32> di;
  const VF32 lows = hn::Set(d, low);
  auto positions = hn::Iota(di, 0);
  for (int t = 0; t < count; t += kLanes) {
    // Not those that do not reach it, which NaN does not.
    auto chosen = hn::Not(hn::Lt(hn::LoadU(d, weights + t), lows));
    if (t + kLanes > count) chosen = hn::And(chosen, hn::FirstN(d, count - t));
    hn::StoreU(hn::Compress(positions, hn::RebindMask(di, chosen)), di, end);
    end += hn::CountTrue(d, chosen);
    positions = hn::Add(positions, hn::Set(di, kLanes));
  }
  return end;
}

// Writes those of `items` whose keys lie in [least, most] to `out`, which may be where they are,
// and returns how many they are.
template <typename T>
HWY_INLINE int Keep(const uint32_t* keys, int count, uint32_t least, uint32_t most, const T* items,
                    T* out) {
  const hn::RebindToSigned<F32> di;  // no key has the highest bit
  const hn::Rebind<T, F32> d;
  const auto load = [&](const auto* from) {
    return hn::BitCast(di,
                       hn::LoadU(hn::Rebind<std::remove_cvref_t<decltype(*from)>, F32>(), from));
  };
  const auto leasts = hn::Set(di, static_cast<int32_t>(least));
  const auto mosts = hn::Set(di, static_cast<int32_t>(most));
  int kept = 0;
  for (int i = 0; i < count; i += kLanes) {
    const auto key = load(keys + i);
    auto within = hn::Not(hn::Or(hn::Lt(key, leasts), hn::Gt(key, mosts)));
    if (i + kLanes > count) within = hn::And(within, hn::FirstN(di, count - i));
    hn::StoreU(hn::BitCast(d, hn::Compress(load(items + i), within)), d, out + kept);
    kept += static_cast<int>(hn::CountTrue(di, within));
  }
  return kept;
}

#else

// For every byte the numbers of its bits that are set, in ascending order.
struct SetBits {
  alignas(64) uint8_t numbers[256][8] = {};
  constexpr SetBits() {
    for (int byte = 0; byte < 256; ++byte) {
      int count = 0;
      for (int bit = 0; bit < 8; ++bit) {
        if (byte >> bit & 1) numbers[byte][count++] = static_cast<uint8_t>(bit);
      }
    }
  }
};
constexpr SetBits kSetBits;

// Writes the t in [0, count) whose weights are not below `low`, in ascending order, and returns the
// end. Branches on single lanes would be mispredicted; masked stores are slow on AMD processors; so
// whole vectors are stored and the end moves by as many as were chosen.
HWY_INLINE int32_t* Positions(const float* weights, int count, float low, int32_t* end) {
  const F32 d;
  const hn::CappedTag<int32_t, 8> di;
  constexpr int kStep = static_cast<int>(hn::MaxLanes(di));
  const VF32 lows = hn::Set(d, low);
  for (int t = 0; t < count; t += kLanes) {
    uint8_t bytes[8] = {};
    // Not those that reach it, which NaN does not.
    hn::StoreMaskBits(d, hn::Not(hn::Lt(hn::LoadU(d, weights + t), lows)), bytes);
    uint32_t bits = bytes[0] | uint32_t{bytes[1]} << 8;
    if (t + kLanes > count) bits &= (1u << (count - t)) - 1;
    for (int first = t; first < t + kLanes; first += 8, bits >>= 8) {
      const uint8_t* numbers = kSetBits.numbers[bits & 255];
      for (int i = 0; i < 8; i += kStep) {
        const auto lanes =
            hn::PromoteTo(di, hn::LoadU(hn::Rebind<uint8_t, decltype(di)>(), numbers + i));
        hn::StoreU(hn::Add(lanes, hn::Set(di, first)), di, end + i);
      }
      end += std::popcount(bits & 255);
    }
  }
  return end;
}

// Writes those of `items` whose keys lie in [least, most] to `out`, which may be where they are,
// and returns how many they are. Without branches, which would be mispredicted.
template <typename T>
HWY_INLINE int Keep(const uint32_t* keys, int count, uint32_t least, uint32_t most, const T* items,
                    T* out) {
  int kept = 0;
  for (int i = 0; i < count; ++i) {
    const bool within = keys[i] - least <= most - least;
    out[kept] = items[i];
    kept += within;
  }
  return kept;
}

#endif

// The k-th largest of `count` keys. Counts keys by ranges of equal width and goes on with the range
// in which it lies: comparisons, as selecting by partitioning makes them, would be mispredicted
// every other time. `rest` is scratch. REQUIRES: 1 <= k <= count; both have kBehind more.
uint32_t KthLargest(const uint32_t* keys, int count, int k, uint32_t* rest) {
  constexpr int kRangeBits = 8;
  constexpr int kFew = 48;  // which partitioning finds faster
  for (;;) {
    if (count <= kFew) {
      std::copy(keys, keys + count, rest);
      std::nth_element(rest, rest + k - 1, rest + count, std::greater<>());
      return rest[k - 1];
    }
    uint32_t high = 0;
    uint32_t low = ~0u;
    for (int i = 0; i < count; ++i) {
      high = std::max(high, keys[i]);
      low = std::min(low, keys[i]);
    }
    if (low == high) return low;
    const int width = static_cast<int>(std::bit_width(high - low));  // of what differs
    const int shift = std::max(0, width - kRangeBits);
    std::array<int32_t, 1 << kRangeBits> counts = {};
    for (int i = 0; i < count; ++i) ++counts[(keys[i] - low) >> shift];
    uint32_t range = (high - low) >> shift;
    for (; counts[range] < k; --range) k -= counts[range];
    const uint32_t least = low + (range << shift);
    const uint32_t most = std::min(high, least + ((1u << shift) - 1));
    count = Keep(keys, count, least, most, keys, rest);
    keys = rest;
  }
}

// A weight that probably some more than k of the weights reach, estimated from a sample; 0 where
// that would not leave enough out.
float LowerBound(const float* weights, int count, int k) {
  constexpr int kSamples = 256;
  if (count < 4 * kSamples) return 0;
  const float expected = static_cast<float>(k) * kSamples / static_cast<float>(count);
  // Three standard deviations more, so that it is seldom too high.
  const int rank = static_cast<int>(expected + 3 * std::sqrt(expected)) + 2;
  if (rank >= kSamples / 2) return 0;
  uint32_t samples[kSamples + kBehind];
  uint32_t rest[kSamples + kBehind];
  const int stride = count / kSamples;
  for (int i = 0; i < kSamples; ++i) samples[i] = Key(weights[i * stride]);
  return std::bit_cast<float>(KthLargest(samples, kSamples, rank + 1, rest));
}

// Leaves k of the `chosen` positions, whose weights reach the threshold: all that are above it, and
// the first of those that are equal to it.
void DropTies(const float* weights, uint32_t threshold, int k, int chosen, int32_t* positions) {
  int ties = k;
  for (int i = 0; i < chosen; ++i) ties -= Key(weights[positions[i]]) > threshold;
  int kept = 0;
  for (int i = 0; i < chosen; ++i) {
    const bool tie = Key(weights[positions[i]]) == threshold;
    positions[kept] = positions[i];
    kept += !tie || ties > 0;
    ties -= tie;
  }
}

// One pass over the weights finds candidates, all else works on these.
void TopTokens(const float* weights, int count, int k, int32_t base, int32_t* out,
               TopTokensScratch* scratch) {
  if (k == 0) return;
  const auto fit = [](auto& vector, size_t size) {
    if (vector.size() < size) vector.resize(size);
  };
  fit(scratch->positions, static_cast<size_t>(count) + kBehind);
  int32_t* const positions = scratch->positions.data();
  auto candidates = static_cast<int>(
      Positions(weights, count, LowerBound(weights, count, k), positions) - positions);
  if (candidates < k) {
    std::iota(positions, positions + count, 0);
    candidates = count;
  }
  fit(scratch->keys, static_cast<size_t>(candidates) + kBehind);
  fit(scratch->rest, static_cast<size_t>(candidates) + kBehind);
  uint32_t* const keys = scratch->keys.data();
  for (int i = 0; i < candidates; ++i) keys[i] = Key(weights[positions[i]]);
  const uint32_t threshold = KthLargest(keys, candidates, k, scratch->rest.data());
  const int chosen = Keep(keys, candidates, threshold, kLargestKey, positions, positions);
  if (chosen > k) DropTies(weights, threshold, k, chosen, positions);
  for (int i = 0; i < k; ++i) out[i] = base + positions[i];
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

void TopTokens(const float* weights, int count, int k, int32_t base, int32_t* out,
               TopTokensScratch* scratch) {
  HWY_DYNAMIC_DISPATCH(TopTokens)(weights, count, k, base, out, scratch);
}

void TopTokensScratch::Reserve(int count) {
  for (auto* vector : {&keys, &rest})
    vector->reserve(static_cast<size_t>(count) + HWY_NAMESPACE::kBehind);
  positions.reserve(static_cast<size_t>(count) + HWY_NAMESPACE::kBehind);
}

}  // namespace winnow::cpu
#endif  // HWY_ONCE
