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
/// leave room for 8 / kHeads tiles. Rows are codes of the tile whose columns the same lanes have,
/// so that a lane needs no other tokens than those that it weighs.
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
    __syncwarp();  // lanes read keys that others made
    // Absent tokens, whose key is 0, come to the largest of these.
    const uint32_t below = threshold.key - 1;
#pragma unroll 1
    for (int first = 0; SampledTile(range, first) < range.end; first += kTiles) {
      const int position = SampledTile(range, first + OwnTile()) + LaneToken();
      const uint4 keys = SampledKeys(range, position);
      const uint32_t over[kLaneTokens] = {keys.x - 1, keys.y - 1, keys.z - 1, keys.w - 1};
      Add(position, [&](int t) { return over[t] < below; });
    }
  }

  /// Takes the weights of those of a warp's list off that are not late, and adds sampled ones that
  /// are: which is seldom.
  __device__ void Finish(const Range& range, int count, const Threshold&) {
#pragma unroll 1
    for (int begin = 0; begin < count; begin += 32) {
      const bool is_any = begin + Lane() < count;
      const uint32_t entry = is_any ? range.keys[begin + Lane()] : range.begin;
      const auto token = static_cast<int>(entry & ~(kEqual | kLate));
      const bool is_late = (entry & kLate) != 0;
      if (is_any && !is_late) TakeOff(token);
      uint32_t late = __ballot_sync(~0u, is_late && IsSampled(token));
      for (; late != 0; late &= late - 1) {
        const int those = __shfl_sync(~0u, token, __ffs(static_cast<int>(late)) - 1);
        const int position = those - those % kPanelTokens + LaneToken();
        Add(position, [&](int t) { return OwnTile() == 0 && position + t == those; });
      }
    }
  }

  /// Leaves the warp's sums of each head, as TailShared has them.
  __device__ void Write(float* sums) {
    float of_head = 0;
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      const float sum = WarpSum(chosen_[h]);
      if (Lane() == h) of_head = -sum;
    }
    if (Lane() < kHeads) sums[Lane() * BlockShared::kHeadSums] = of_head;
    // What lanes have of the same head.
    sampled_ += __shfl_xor_sync(~0u, sampled_, 1);
    sampled_ += __shfl_xor_sync(~0u, sampled_, 2);
#pragma unroll
    for (int lanes = 4 * kHeads; lanes < 32; lanes *= 2) {
      sampled_ += __shfl_xor_sync(~0u, sampled_, lanes);
    }
    // Of a tile's rows only the products with the tile's columns count.
#pragma unroll
    for (int m = 0; m < kMatrices; ++m) {
#pragma unroll
      for (int tiles = 1; tiles < kTiles; tiles *= 2) {
        const int lanes = tiles * (4 * kHeads + kHeads / 2);
#pragma unroll
        for (float& x : codes_[m]) x += __shfl_xor_sync(~0u, x, lanes);
      }
    }
    const int j = Lane() % 4;  // columns 2 j and 2 j + 1 are the lane's
    if (TailRow() >= kHeads || 2 * j >= kHeads) return;
    if (j == 0) sums[TailRow() * BlockShared::kHeadSums + 1] = sampled_;
#pragma unroll
    for (int m = 0; m < kMatrices; ++m) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const CodeRow row = RowOf(m, e / 2);
        if (row.piece >= kPieces) break;
        const float unit = row.is_high ? 0x1p20f : 0x1p24f;
        sums[(2 * j + e % 2) * BlockShared::kHeadSums + 2 + 8 * row.piece + 4 * row.is_high +
             row.byte] = codes_[m][e] * unit;
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
  // A tile has 2 kHeads rows of a product.
  static constexpr int kMatrices = CeilDivide(kWidth, 2 * kHeads);

  __device__ static int Lane() { return static_cast<int>(threadIdx.x % 32); }

  // What a lane weighs for a product of kTiles tiles: four tokens of one of them, for one head.
  __device__ static int OwnTile() { return TailRow() / kHeads; }
  __device__ static int OwnHead() { return TailRow() % kHeads; }
  __device__ static int LaneToken() { return Lane() % 4 * kLaneTokens; }

  // Where a tile of the range's sample begins.
  __device__ static int SampledTile(const Range& range, int tile) {
    constexpr int kStrideTiles = kSampledTokens / kPanelTokens;
    return range.begin + tile / kStrideTiles * kSampleStride + tile % kStrideTiles * kPanelTokens;
  }

  __device__ void TakeOff(int token) {
    const std::byte* const at = scorer_.At(token);
    uint32_t words[kPieces];
#pragma unroll
    for (int p = 0; p < kPieces; ++p) {
      words[p] = __ldg(reinterpret_cast<const uint32_t*>(at + p * 4 * kPanelTokens));
    }
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      if (EndsGroup<kHeads>(h, scorer_.head)) break;
      const int score = scorer_.ScoreToken(words, h, Scorer::kFloatStart);
      chosen_[h] += Weight(WeightOf<Scorer>(score, h, shared_.queries), shared_.factor[h]);
    }
  }

  // Adds those of the lane's four tokens t, from `position` on, for which counts(t).
  template <typename Counts>
  __device__ void Add(int position, const Counts& counts) {
    const typename Scorer::Labels labels = scorer_.Load(position);
    float weights[kLaneTokens];
    WeighTokens(scorer_, labels, OwnHead(), shared_.queries, weights);
    const float factor = shared_.factor[OwnHead()];
#pragma unroll
    for (int t = 0; t < kLaneTokens; ++t) weights[t] = counts(t) ? Weight(weights[t], factor) : 0;
    const uint32_t first = Halves(weights[0], weights[1]);
    const uint32_t second = Halves(weights[2], weights[3]);
    sampled_ += SumOf(first) + SumOf(second);
#pragma unroll
    for (int m = 0; m < kMatrices; ++m) {
      uint32_t a[4] = {};
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const CodeRow row = RowOf(m, half);
        if (row.piece >= kPieces) break;
        const uint4& words = labels.words[row.piece];
        a[half] = CodePair(words.x, words.y, row);
        a[half + 2] = CodePair(words.z, words.w, row);
      }
      // Tensor cores cut what they add off at 2^-24 of the largest, all of it downwards: so sums
      // over many tokens are made apart.
      float product[4] = {};
      Mma(product, a, first, second);
#pragma unroll
      for (int e = 0; e < 4; ++e) codes_[m][e] += product[e];
    }
  }

  // Which codes of the tokens' labels a row of the first operand has.
  struct CodeRow {
    int piece;
    int byte;
    bool is_high;  // nibble
  };

  // Of product m the lane's row, TailRow() + 8 half.
  __device__ static CodeRow RowOf(int m, int half) {
    if constexpr (kHeads == 8) {
      return {2 * m + half, TailRow() % 4, TailRow() >= 4};
    } else {
      constexpr int kPieceProducts = 4 / kHeads;
      return {m / kPieceProducts, TailRow() % kHeads + m % kPieceProducts * kHeads, half == 1};
    }
  }
  __device__ static float Weight(float weight, float factor) {
    return __fmul_rn(weight, factor * kBesides);
  }
  __device__ static uint32_t Halves(float first, float second) {
    const __half2 halves = __floats2half2_rn(first, second);
    return *reinterpret_cast<const uint32_t*>(&halves);
  }
  __device__ static float SumOf(uint32_t halves) {
    const float2 both = __half22float2(*reinterpret_cast<const __half2*>(&halves));
    return both.x + both.y;
  }

  // A row's codes of two tokens as halves. As they stand they are subnormal ones, in units of 2^-24
  // or, high nibbles, of 2^-20.
  __device__ static uint32_t CodePair(uint32_t first, uint32_t second, const CodeRow& row) {
    const uint32_t mask = row.is_high ? 0x00f000f0 : 0x000f000f;
    return __byte_perm(first, second, row.byte * 0x11 + (4 + row.byte) * 0x1100) & mask;
  }

  const Scorer& scorer_;
  const bool is_wanted_;
  Shared& shared_;
  float chosen_[kHeads] = {};       // of the lane's tokens
  float sampled_ = 0;               // of the lane's head and tile
  float codes_[kMatrices][4] = {};  // results of products
};

}  // namespace winnow::cuda::select
