#pragma once

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/math.cuh"
#include "kernels/cuda/select_range.cuh"

// Makes a key of every token: an integer that is ordered as the scores are.

namespace winnow::cuda::select {

// Calls body(step, labels, are_free) with the labels of the lane's four tokens of each step;
// decltype(are_free)::value implies Range::AreFree.
template <typename Scorer, typename Body>
__device__ inline void ForLabels(const Scorer& scorer, const Range& range, const Body& body) {
  constexpr int kUnroll = Scorer::kUnroll;
  for (int step = 0; step < range.Steps(); step += kUnroll) {
    typename Scorer::Labels labels[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) labels[u] = scorer.Load(range.LanePosition(step + u));
    if (range.AreFree(step, kUnroll)) {
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) body(step + u, labels[u], std::true_type());
    } else {
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        if (step + u < range.Steps()) body(step + u, labels[u], std::false_type());
      }
    }
  }
}

// Whether to leave out heads from h on, which only pad the group. Asked of large groups alone:
// small ones are faster without the branch, but large ones without it take too many registers.
template <int kHeads>
__device__ inline bool EndsGroup(int h, const DecodeHead& head) {
  return kHeads > 4 && h >= head.call.group;
}

// Sets the biases by the largest scores, where they are not known beforehand.
template <int kHeads, typename Scorer>
__device__ inline void FindBias(const Scorer& scorer, const DecodeHead& head, const Range& range,
                                Shared& shared) {
  float max[kHeads];
#pragma unroll
  for (int h = 0; h < kHeads; ++h) max[h] = -INFINITY;
  ForLabels(scorer, range, [&](int step, const auto& labels, auto) {
    const int valid = head.context - range.LanePosition(step);
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      if (EndsGroup<kHeads>(h, head)) break;
      typename Scorer::Score scores[kLaneTokens];
      scorer.ScoreTokens(labels, h, Scorer::kFloatStart, scores);
#pragma unroll
      for (int t = 0; t < kLaneTokens; ++t) {
        if (t < valid) max[h] = fmaxf(max[h], Scorer::FloatOf(scores[t]));
      }
    }
  });
  shared.max.Run(max, -INFINITY, [](float a, float b) { return fmaxf(a, b); });
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    if (threadIdx.x == h)
      shared.queries.bias[h] = -(max[h] - Scorer::kFloatZero) * shared.queries.scale[h];
  }
  __syncthreads();
}

// What is added to a head's score, as FloatOf it, times its scale. Rounded, so that weights come
// with a factor that all tokens share.
template <typename Scorer>
__device__ inline float FloatBias(const GroupQueries& queries, int h) {
  return fmaf(-Scorer::kFloatZero, queries.scale[h], queries.bias[h]);
}

// 2^(scale score + bias) of head h, but for a factor that all tokens share.
template <typename Scorer>
__device__ inline float WeightOf(typename Scorer::Score score, int h, const GroupQueries& queries) {
  return Exp2(fmaf(Scorer::FloatOf(score), queries.scale[h], FloatBias<Scorer>(queries, h)));
}

// The same of four tokens.
template <typename Scorer>
__device__ inline void WeighTokens(const Scorer& scorer, const typename Scorer::Labels& labels,
                                   int h, const GroupQueries& queries,
                                   float (&weights)[kLaneTokens]) {
  typename Scorer::Score scores[kLaneTokens];
  scorer.ScoreTokens(labels, h, Scorer::kFloatStart, scores);
#pragma unroll
  for (int t = 0; t < kLaneTokens; ++t) weights[t] = WeightOf<Scorer>(scores[t], h, queries);
}

// Sets the factors: 1 / the sum of each head's weights, and 0 for heads that pad the group. The
// mean of softmaxes is smaller by the group's size, which orders alike.
template <int kHeads, typename Scorer>
__device__ inline void FindFactors(const Scorer& scorer, const DecodeHead& head, const Range& range,
                                   Shared& shared) {
  float sums[kHeads] = {};
  ForLabels(scorer, range, [&](int step, const auto& labels, auto are_free) {
    const int valid = head.context - range.LanePosition(step);
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      if (EndsGroup<kHeads>(h, head)) break;
      float weights[kLaneTokens];
      WeighTokens(scorer, labels, h, shared.queries, weights);
#pragma unroll
      for (int t = 0; t < kLaneTokens; ++t) {
        if (decltype(are_free)::value || t < valid) sums[h] += weights[t];
      }
    }
  });
  shared.sum.Run(sums, 0, [](float a, float b) { return a + b; });
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    if (threadIdx.x == h) shared.factor[h] = h < head.call.group ? 1 / sums[h] : 0;
  }
  __syncthreads();
}

// Sums of softmaxes are at most kMaxGroup. Where they differ by more than so many powers of two, a
// first histogram does not tell the smallest apart.
__device__ inline KeyRange WeightKeys() {
  return {__float_as_uint(1e-12f), __float_as_uint(2.0f * kMaxGroup)};
}

// Makes the keys of the warp's tokens, from softmax weights summed over the heads or, of one head,
// from scores, and counts them in the first histogram, which is empty. Returns the range that this
// covers, which takes smaller keys for its least one.
template <int kHeads, typename Scorer>
__device__ inline KeyRange MakeKeys(const Scorer& scorer, const DecodeHead& head,
                                    const Range& range, Shared& shared) {
  if constexpr (kHeads > 1) {
    if (!scorer.template KnowsBias<kHeads>()) FindBias<kHeads>(scorer, head, range, shared);
    FindFactors<kHeads>(scorer, head, range, shared);
  }
  const KeyRange covered = kHeads == 1 ? scorer.Keys() : WeightKeys();
  const int shift = Shift(covered);
  uint32_t* const histogram = shared.histograms[0];
  const auto make = [&](int step, const auto& labels, auto are_free) {
    uint32_t keys[kLaneTokens];
    if constexpr (kHeads == 1) {
      typename Scorer::Score scores[kLaneTokens];
      scorer.ScoreTokens(labels, 0, scorer.KeyStart(), scores);
#pragma unroll
      for (int t = 0; t < kLaneTokens; ++t) keys[t] = Scorer::KeyOf(scores[t]);
    } else {
      float sums[kLaneTokens] = {};
#pragma unroll
      for (int h = 0; h < kHeads; ++h) {
        if (EndsGroup<kHeads>(h, head)) break;
        float weights[kLaneTokens];
        WeighTokens(scorer, labels, h, shared.queries, weights);
        const float factor = shared.factor[h];
#pragma unroll
        for (int t = 0; t < kLaneTokens; ++t) sums[t] = fmaf(factor, weights[t], sums[t]);
      }
#pragma unroll
      for (int t = 0; t < kLaneTokens; ++t) {
        // At most that only where they are no numbers.
        keys[t] = min(__float_as_uint(sums[t]) + 1, covered.largest);
      }
    }
    const int position = range.LanePosition(step);
#pragma unroll
    for (int t = 0; t < kLaneTokens; ++t) {
      const int p = position + t;
      if (decltype(are_free)::value || (p >= range.free_begin && p < range.free_end)) {
        atomicAdd(&histogram[(max(keys[t], covered.least) - covered.least) >> shift], 1);
      } else {
        keys[t] = p < head.context ? kForced : kAbsent;
      }
    }
    range.LaneKeys(step) = {keys[0], keys[1], keys[2], keys[3]};
  };
  ForLabels(scorer, range, make);
  return covered;
}

}  // namespace winnow::cuda::select
