#include "kernels/cpu/top_tokens.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <functional>
#include <numeric>
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

// A weight as an integer that is ordered as weights are. What is no weight is larger than all.
HWY_INLINE uint32_t Key(float weight) {
  constexpr uint32_t kInfinity = 0x7f800000;
  return std::min(std::bit_cast<uint32_t>(weight), kInfinity + 1);
}

// Room behind positions for vectors that are stored whole.
constexpr int kPositionsBehind = 8;

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

// A weight that probably some more than k of the weights reach, estimated from a sample; 0 where
// that would not leave enough out.
float LowerBound(const float* weights, int count, int k) {
  constexpr int kSamples = 256;
  if (count < 4 * kSamples) return 0;
  const float expected = static_cast<float>(k) * kSamples / static_cast<float>(count);
  // Three standard deviations more, so that it is seldom too high.
  const int rank = static_cast<int>(expected + 3 * std::sqrt(expected)) + 2;
  if (rank >= kSamples / 2) return 0;
  uint32_t samples[kSamples];
  const int stride = count / kSamples;
  for (int i = 0; i < kSamples; ++i) samples[i] = Key(weights[i * stride]);
  std::nth_element(samples, samples + rank, samples + kSamples, std::greater<>());
  return std::bit_cast<float>(samples[rank]);
}

// The k-th largest. Counts keys by ranges of equal width and goes on with the range in which it
// lies: comparisons, as selecting by partitioning makes them, would be mispredicted every other
// time. Reorders `bits`. REQUIRES: 1 <= k <= bits.size().
uint32_t KthLargest(std::vector<uint32_t>& bits, int k) {
  constexpr int kRangeBits = 8;
  uint32_t low = 0;
  int width = 32;  // of the bits above `low` in which they still differ
  size_t count = bits.size();
  for (;;) {
    uint32_t high = 0;
    low = ~0u;
    for (size_t i = 0; i < count; ++i) {
      high = std::max(high, bits[i]);
      low = std::min(low, bits[i]);
    }
    if (low == high) return low;
    width = std::bit_width(high - low);
    const int shift = std::max(0, width - kRangeBits);
    std::array<int32_t, 1 << kRangeBits> counts = {};
    for (size_t i = 0; i < count; ++i) ++counts[(bits[i] - low) >> shift];
    uint32_t range = (1 << kRangeBits) - 1;
    for (; counts[range] < k; --range) k -= counts[range];
    size_t kept = 0;
    for (size_t i = 0; i < count; ++i) {
      const uint32_t value = bits[i];
      bits[kept] = value;
      kept += (value - low) >> shift == range;
    }
    count = kept;
  }
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
  std::vector<int32_t>& positions = scratch->positions;
  std::vector<uint32_t>& bits = scratch->bits;
  positions.resize(std::max<size_t>(positions.size(), count + kPositionsBehind));
  int32_t* const end = Positions(weights, count, LowerBound(weights, count, k), positions.data());
  auto candidates = static_cast<int>(end - positions.data());
  if (candidates < k) {
    std::iota(positions.begin(), positions.begin() + count, 0);
    candidates = count;
  }

  bits.resize(candidates);
  for (int i = 0; i < candidates; ++i) bits[i] = Key(weights[positions[i]]);
  const uint32_t threshold = KthLargest(bits, k);
  int chosen = 0;
  for (int i = 0; i < candidates; ++i) {  // without branches, which would be mispredicted
    const int32_t position = positions[i];
    positions[chosen] = position;
    chosen += Key(weights[position]) >= threshold;
  }
  if (chosen > k) DropTies(weights, threshold, k, chosen, positions.data());
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
  positions.reserve(static_cast<size_t>(count) + HWY_NAMESPACE::kPositionsBehind);
  bits.reserve(static_cast<size_t>(count));
}

}  // namespace winnow::cpu
#endif  // HWY_ONCE
