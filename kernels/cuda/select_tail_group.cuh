#pragma once

#include <cuda_fp16.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/math.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/select_keys.cuh"
#include "kernels/cuda/select_range.cuh"
#include "kernels/cuda/select_tail.cuh"
#include "kernels/cuda/select_threshold.cuh"
#include "kernels/cuda/token_scorers.cuh"

namespace winnow::cuda::select {

/// Of several heads, whose weights are softmax weights that are made anew of the sample's labels,
/// rounded to 16 bits. What all tokens weigh is known: of it the chosen ones' weights are taken
/// off. A column of a product is one head's weights of a tile of 16 tokens: kHeads padded heads
/// leave room for 8 / kHeads tiles, each with columns of its own, and a tile's product takes the
/// other tiles' weights for zeros.
template <int kWidth, int kHeads>
class TailSums {
 public:
  static constexpr bool kCounts = true;
  using Scorer = LabelScorer<kWidth>;
  using BlockShared = TailShared<kWidth, kHeads>;

  __device__ TailSums(const Scorer& scorer, Shared& shared, bool is_wanted)
      : scorer_(scorer), is_wanted_(is_wanted), shared_(shared) {}

  __device__ bool is_wanted() const { return is_wanted_; }

  /// Adds the sampled tokens of the warp's range whose keys are below the threshold.
  __device__ void AddBelow(const Range& range, const Threshold& threshold) {
    SyncCluster();  // no block reads another's histograms any more
    // Absent tokens, whose key is 0, come to the largest of these.
    const uint32_t below = threshold.key - 1;
#pragma unroll 1
    for (int base = range.begin; base < range.end; base += kSampleTokens) {
      const int position = base + SampledOffset();
      const uint4 keys = SampledKeys(range, position);
      const uint32_t over[kLaneTokens] = {keys.x - 1, keys.y - 1, keys.z - 1, keys.w - 1};
      Add(position, [&](int t) { return over[t] < below; });
    }
  }

  /// Takes the weights of those of a warp's list off that are not late, and adds sampled ones that
  /// are: which is seldom.
  __device__ void Finish(const Range& range, int count, const Threshold&) {
    __syncwarp();
    const int h = TailRow() % kHeads;
    const float factor = shared_.factor[h];
    uint32_t any_late = 0;
#pragma unroll 1
    for (int begin = 0; begin < count; begin += kTiles * kPanelTokens) {
      const int first = begin + TailRow() / kHeads * kPanelTokens + Lane() % 4 * kLaneTokens;
      const uint4 four = *reinterpret_cast<const uint4*>(&range.keys[first]);
      const uint32_t entries[kLaneTokens] = {four.x, four.y, four.z, four.w};
      typename Scorer::Labels labels;
#pragma unroll
      for (int t = 0; t < kLaneTokens; ++t) {
        const uint32_t position =
            first + t < count ? entries[t] & ~(kEqual | kLate) : static_cast<uint32_t>(range.begin);
        const std::byte* const at = scorer_.At(static_cast<int>(position));
#pragma unroll
        for (int p = 0; p < kPieces; ++p) {
          Word(labels.words[p], t) =
              __ldg(reinterpret_cast<const uint32_t*>(at + p * 4 * kPanelTokens));
        }
      }
      float weights[kLaneTokens];
      WeighTokens(scorer_, labels, h, shared_.queries, weights);
#pragma unroll
      for (int t = 0; t < kLaneTokens; ++t) {
        const bool is_late = (entries[t] & kLate) != 0;
        if (first + t < count && !is_late) sum_ -= Weight(weights[t], factor);
        if (first + t < count) any_late |= is_late;
      }
    }
    if (!__any_sync(~0u, any_late != 0)) return;
#pragma unroll 1
    for (int i = 0; i < count; ++i) {
      const auto token = static_cast<int>(range.keys[i] & ~(kEqual | kLate));
      if ((range.keys[i] & kLate) == 0 || !IsSampled(token)) continue;
      const int position = token - (token - range.begin) % kStepTokens + Lane() * kLaneTokens;
      Add(position, [&](int t) { return position + t == token; });
    }
  }

  /// Leaves the warp's sums of each head, as TailShared has them.
  __device__ void Write(float* sums) {
    // Adds up what lanes have of the same head: of the first tile's columns, the first lanes have
    // all. A lane has columns 2 j and 2 j + 1, with j = lane % 4.
    const auto add_up = [](float& sum) {
      sum += __shfl_xor_sync(~0u, sum, 1);
      sum += __shfl_xor_sync(~0u, sum, 2);
#pragma unroll
      for (int lanes = 4 * kHeads; lanes < 32; lanes *= 2) sum += __shfl_xor_sync(~0u, sum, lanes);
    };
    add_up(sum_);
    add_up(sampled_);
#pragma unroll
    for (int m = 0; m < kMatrices; ++m) {
#pragma unroll
      for (int lanes = kHeads / 2; lanes < 4; lanes *= 2) {
#pragma unroll
        for (float& x : codes_[m]) x += __shfl_xor_sync(~0u, x, lanes);
      }
    }
    const int j = Lane() % 4;
    if (TailRow() < kHeads && j == 0) {
      sums[TailRow() * BlockShared::kHeadSums] = sum_;
      sums[TailRow() * BlockShared::kHeadSums + 1] = sampled_;
    }
    if (2 * j >= kHeads) return;
    const float unit = IsHighNibble() ? 0x1p20f : 0x1p24f;
#pragma unroll
    for (int m = 0; m < kMatrices; ++m) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        if (2 * m + e / 2 >= kPieces) break;
        sums[(2 * j + e % 2) * BlockShared::kHeadSums + 2 + 16 * m + 8 * (e / 2) + TailRow()] =
            codes_[m][e] * unit;
      }
    }
  }

  /// Of all tokens' weights, beside what is in the sums: all softmax weights.
  static constexpr float kBesides = 0x1p15f;

  /// 2^(scale score + bias) is the weight of a token of the head.
  __device__ static float BiasOf(int h, const Threshold&, const Shared& shared) {
    return log2f(kBesides) + log2f(shared.factor[h]) +
           fmaf(Scorer::kFloatZero, shared.queries.scale[h], FloatBias<Scorer>(shared.queries, h));
  }

 private:
  static constexpr int kPieces = kWidth / 8;
  static constexpr int kTiles = 8 / kHeads;
  static constexpr int kMatrices = (kPieces + 1) / 2;  // of 16 dimensions

  // Of a few tiles. Tensor cores cut what they add off at 2^-24 of the largest, all of it
  // downwards: so sums over many tokens are made apart.
  struct Products {
    float of[kMatrices][4];
  };

  __device__ static int Lane() { return static_cast<int>(threadIdx.x % 32); }

  // Adds those of the four tokens t at the lane's position for which counts(t).
  template <typename Counts>
  __device__ void Add(int position, const Counts& counts) {
    const std::byte* const at = scorer_.LaneAt(position);
    const typename Scorer::Labels mine = Scorer::LoadAt(at);
    uint2 weights[kHeads] = {};  // halves
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      if (EndsGroup<kHeads>(h, scorer_.head)) break;
      float of_head[kLaneTokens];
      WeighTokens(scorer_, mine, h, shared_.queries, of_head);
#pragma unroll
      for (int t = 0; t < kLaneTokens; ++t) {
        of_head[t] = counts(t) ? Weight(of_head[t], shared_.factor[h]) : 0;
      }
      weights[h] = {Halves(of_head[0], of_head[1]), Halves(of_head[2], of_head[3])};
    }
    constexpr int kLanes = 32 / kHeads;  // that have the tokens of kTiles tiles
    static_assert(kMaxWarps * 32 * sizeof(uint2) <= sizeof(shared_.histograms));
    auto* const staged = reinterpret_cast<uint2*>(shared_.histograms) + threadIdx.x / 32 * 32;
#pragma unroll 1
    for (int begin = 0; begin < 32; begin += kLanes) {
      const auto load = [&](int tile) {
        const int from = begin + 4 * tile + Lane() % 4;
        return Scorer::LoadAt(reinterpret_cast<const std::byte*>(
            __shfl_sync(~0u, reinterpret_cast<unsigned long long>(at), from)));
      };
      __syncwarp();
      const int index = Lane() - begin;
      if (index >= 0 && index < kLanes) {
#pragma unroll
        for (int h = 0; h < kHeads; ++h) {
          staged[(index / 4 * kHeads + h) * 4 + index % 4] = weights[h];
        }
      }
      __syncwarp();
      const uint2 of_tiles = staged[Lane()];
      sampled_ += SumOf(of_tiles);
      Products products = {};
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) AddTile(tile, load(tile), of_tiles, products);
      AddUp(products);
    }
  }
  __device__ void AddUp(const Products& products) {
#pragma unroll
    for (int m = 0; m < kMatrices; ++m) {
#pragma unroll
      for (int e = 0; e < 4; ++e) codes_[m][e] += products.of[m][e];
    }
  }
  __device__ static float Weight(float weight, float factor) {
    return __fmul_rn(weight, factor * kBesides);
  }
  __device__ static uint32_t Halves(float first, float second) {
    const __half2 halves = __floats2half2_rn(first, second);
    return *reinterpret_cast<const uint32_t*>(&halves);
  }
  __device__ static float SumOf(const uint2& halves) {
    const float2 first = __half22float2(*reinterpret_cast<const __half2*>(&halves.x));
    const float2 second = __half22float2(*reinterpret_cast<const __half2*>(&halves.y));
    return (first.x + first.y) + (second.x + second.y);
  }
  __device__ static uint32_t& Word(uint4& words, int t) {
    return t == 0 ? words.x : t == 1 ? words.y : t == 2 ? words.z : words.w;
  }

  // The lane's dimension of two tokens as halves. As they stand codes are subnormal ones, in units
  // of 2^-24 or, high nibbles, of 2^-20.
  __device__ static uint32_t CodePair(uint32_t first, uint32_t second) {
    const uint32_t byte = TailRow() % 4;
    const uint32_t mask = IsHighNibble() ? 0x00f000f0 : 0x000f000f;
    return __byte_perm(first, second, byte * 0x11 + (4 + byte) * 0x1100) & mask;
  }

  // Adds codes times weights of the tile whose tokens' labels lanes 0 to 3 have, as all others.
  __device__ static void AddTile(int tile, const typename Scorer::Labels& labels,
                                 const uint2& weights, Products& products) {
    const bool is_own = kTiles == 1 || TailRow() / kHeads == tile;
    const uint32_t b0 = is_own ? weights.x : 0;
    const uint32_t b1 = is_own ? weights.y : 0;
#pragma unroll
    for (int m = 0; m < kMatrices; ++m) {
      const uint4& even = labels.words[2 * m];
      uint32_t a[4] = {CodePair(even.x, even.y), 0, CodePair(even.z, even.w), 0};
      if (2 * m + 1 < kPieces) {
        const uint4& odd = labels.words[min(2 * m + 1, kPieces - 1)];
        a[1] = CodePair(odd.x, odd.y);
        a[3] = CodePair(odd.z, odd.w);
      }
      Mma(products.of[m], a, b0, b1);
    }
  }

  const Scorer& scorer_;
  const bool is_wanted_;
  Shared& shared_;
  float sum_ = 0;                   // of the lane's head and tiles: less the chosen tokens' weights
  float sampled_ = 0;               // likewise: weights of the sample
  float codes_[kMatrices][4] = {};  // results of products
};

}  // namespace winnow::cuda::select
