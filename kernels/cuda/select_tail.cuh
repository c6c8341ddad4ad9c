#pragma once

#include <cuda_fp16.h>

#include <cfloat>
#include <cstddef>
#include <cstdint>

#include "kernels/cuda/budgets.cuh"
#include "kernels/cuda/cluster.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/select_range.cuh"
#include "kernels/cuda/select_threshold.cuh"
#include "kernels/cuda/token_scorers.cuh"

// What the labels of a head's unchosen tokens say of them together: see decode_select.cu. A warp
// sums their weights, and their codes times their weights, on tensor cores. Codes of 16 tokens are
// a first operand, with a row for each dimension. Weights are the second one, with a column for
// each query head: kHeads padded heads leave room for 8 / kHeads tiles of 16 tokens, each with
// columns of its own. So every lane weighs 4 tokens of one tile for one head, whatever kHeads is,
// and a tile's product takes the other tiles' weights for zeros.

namespace winnow::cuda::select {

/// Of the tail kernels; others count nothing.
struct NoTail {
  static constexpr bool kCounts = false;
};

/// What a block makes of its warps' sums, in place of the histograms.
template <int kWidth, int kHeads>
struct TailShared {
  static constexpr int kRound = kMinWarps;  // warps whose sums are added up together
  static constexpr int kSums = kHeads * (1 + kWidth);
  float of_warp[kRound][kSums];  // of a head: of weights, then of codes times weights
  float of_block[kSums];
  float of_all[kSums];
};

template <int kWidth, int kHeads>
class TailSums {
 public:
  static constexpr bool kCounts = true;
  using Scorer = LabelScorer<kWidth>;
  using BlockShared = TailShared<kWidth, kHeads>;

  // Weights are relative to that of a token of key `threshold`, or more, which none of those that
  // are not chosen exceeds in a head.
  __device__ TailSums(const Scorer& scorer, const Threshold& threshold, const Shared& shared)
      : scorer_(scorer),
        head_(Lane() / 4 % kHeads),
        scale_(shared.queries.scale[head_]),
        bias_(BiasOf(head_, threshold, shared)) {}

  // Adds the tokens of the warp's range whose keys are below the threshold.
  __device__ void AddBelow(const Range& range, const Threshold& threshold) {
    __syncwarp();  // other lanes wrote the keys
    for (int base = range.begin; base < range.end; base += kStep) {
      const uint4 four =
          *reinterpret_cast<const uint4*>(&range.keys[LanePosition(base) - range.begin]);
      const uint32_t keys[kLaneTokens] = {four.x, four.y, four.z, four.w};
      Add(base, [&](int t) { return keys[t] < threshold.key && keys[t] != kAbsent; });
    }
  }

  // Adds one token of the range. All lanes take part.
  __device__ void AddOne(const Range& range, int position) {
    const int base = position - (position - range.begin) % kStep;
    const int first = LanePosition(base);
    Add(base, [&](int t) { return first + t == position; });
  }

  // Leaves the block's sums.
  __device__ void Share(BlockShared& shared) {
    constexpr int kThreadSums = CeilDivide(BlockShared::kSums, kFirstThreads);
    const int warp = threadIdx.x / 32;
    float totals[kThreadSums] = {};
    Fold();
    for (int first = 0; first < BlockWarps(); first += BlockShared::kRound) {
      __syncthreads();
      if (warp >= first && warp < first + BlockShared::kRound) {
        Write(shared.of_warp[warp - first]);
      }
      __syncthreads();
      if (threadIdx.x >= kFirstThreads) continue;
#pragma unroll
      for (int n = 0; n < kThreadSums; ++n) {
        const int i = threadIdx.x + n * kFirstThreads;
        if (i >= BlockShared::kSums) break;
        for (const auto& sums : shared.of_warp) totals[n] += sums[i];
      }
    }
    if (threadIdx.x >= kFirstThreads) return;
#pragma unroll
    for (int n = 0; n < kThreadSums; ++n) {
      const int i = threadIdx.x + n * kFirstThreads;
      if (i < BlockShared::kSums) shared.of_block[i] = totals[n];
    }
  }

  // 2^(scale score + bias) is the weight of a token of the head.
  __device__ static float BiasOf(int head, const Threshold& threshold, const Shared& shared) {
    const GroupQueries& queries = shared.queries;
    if constexpr (kHeads == 1) {  // keys are scores
      const int cut = threshold.key == kForced
                          ? queries.greatest[0]
                          : static_cast<int>(threshold.key) - 1 + queries.least[0];
      return kLargest - queries.scale[0] * static_cast<float>(cut);
    } else {
      const float cut =
          threshold.key == kForced ? 1 : fmaxf(__uint_as_float(threshold.key - 1), FLT_MIN);
      return kLargest + queries.bias[head] + log2f(shared.factor[head]) - log2f(cut);
    }
  }

 private:
  static constexpr int kPieces = kWidth / 8;
  static constexpr int kTiles = 8 / kHeads;
  static constexpr int kStep = kTiles * kPanelTokens;
  static constexpr int kMatrices = (kPieces + 1) / 2;  // of 16 dimensions
  // Powers of two: the largest weight, for numbers of 16 bits.
  static constexpr float kLargest = 14;

  __device__ static int Lane() { return static_cast<int>(threadIdx.x % 32); }
  // Of the lane's four tokens.
  __device__ static int LanePosition(int base) {
    return base + Lane() / 4 / kHeads * kPanelTokens + Lane() % 4 * kLaneTokens;
  }

  // The lane's dimension of two tokens as halves. As they stand codes are subnormal ones, in units
  // of CodeUnit.
  __device__ static uint32_t CodePair(uint32_t first, uint32_t second) {
    const uint32_t byte = Lane() / 4 % 4;
    const uint32_t mask = Lane() < 16 ? 0x000f000f : 0x00f000f0;
    return __byte_perm(first, second, byte * 0x11 + (4 + byte) * 0x1100) & mask;
  }
  __device__ static float CodeUnit() { return Lane() < 16 ? 0x1p24f : 0x1p20f; }

  // Adds those of the lane's four tokens t for which counts(t).
  template <typename Counts>
  __device__ void Add(int base, const Counts& counts) {
    const std::byte* const at = scorer_.LaneAt(LanePosition(base));
    const typename Scorer::Labels own = Scorer::LoadAt(at);
    typename Scorer::Score scores[kLaneTokens];
    scorer_.ScoreTokens(own, head_, Scorer::kFloatStart, scores);
    float weights[kLaneTokens];
#pragma unroll
    for (int t = 0; t < kLaneTokens; ++t) {
      const float score = Scorer::FloatOf(scores[t]) - Scorer::kFloatZero;
      weights[t] = counts(t) ? Exp2(fmaf(score, scale_, bias_)) : 0;
      sum_ += weights[t];
    }
    const uint32_t pairs[2] = {Pack(__half(weights[0]), __half(weights[1])),
                               Pack(__half(weights[2]), __half(weights[3]))};
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      typename Scorer::Labels labels = own;
      bool is_own = true;
      if constexpr (kTiles > 1) {
        const int from = 4 * kHeads * tile + Lane() % 4;
        labels = Scorer::LoadAt(reinterpret_cast<const std::byte*>(
            __shfl_sync(~0u, reinterpret_cast<unsigned long long>(at), from)));
        is_own = Lane() / 4 / kHeads == tile;
      }
      const uint32_t b0 = is_own ? pairs[0] : 0;
      const uint32_t b1 = is_own ? pairs[1] : 0;
#pragma unroll
      for (int m = 0; m < kMatrices; ++m) {
        const uint4& even = labels.words[2 * m];
        uint32_t a[4] = {CodePair(even.x, even.y), 0, CodePair(even.z, even.w), 0};
        if (2 * m + 1 < kPieces) {
          const uint4& odd = labels.words[min(2 * m + 1, kPieces - 1)];
          a[1] = CodePair(odd.x, odd.y);
          a[3] = CodePair(odd.z, odd.w);
        }
        Mma(codes_[m], a, b0, b1);
      }
    }
  }

  // Adds up what lanes have of the same head: of the first tile's columns, the first lanes have
  // all.
  __device__ void Fold() {
    sum_ += __shfl_xor_sync(~0u, sum_, 1);
    sum_ += __shfl_xor_sync(~0u, sum_, 2);
#pragma unroll
    for (int lanes = 4 * kHeads; lanes < 32; lanes *= 2) {
      sum_ += __shfl_xor_sync(~0u, sum_, lanes);
    }
    // A lane has columns 2 j and 2 j + 1, with j = lane % 4.
#pragma unroll
    for (int m = 0; m < kMatrices; ++m) {
      if constexpr (kHeads == 1) {
        codes_[m][0] += codes_[m][1];
        codes_[m][2] += codes_[m][3];
      }
#pragma unroll
      for (int lanes = kHeads == 1 ? 1 : kHeads / 2; lanes < 4; lanes *= 2) {
#pragma unroll
        for (float& x : codes_[m]) x += __shfl_xor_sync(~0u, x, lanes);
      }
    }
  }

  __device__ void Write(float* sums) const {
    const int i = Lane() / 4;
    const int j = Lane() % 4;
    if (i < kHeads && j == 0) sums[i * (1 + kWidth)] = sum_;
    constexpr int kLaneHeads = kHeads == 1 ? 1 : 2;
    if (j * kLaneHeads >= kHeads) return;
#pragma unroll
    for (int m = 0; m < kMatrices; ++m) {
#pragma unroll
      for (int e = 0; e < kLaneHeads; ++e) {
        float* const of_head = sums + (j * kLaneHeads + e) * (1 + kWidth) + 1;
        of_head[16 * m + i] = codes_[m][e] * CodeUnit();
        if (2 * m + 1 < kPieces) of_head[16 * m + 8 + i] = codes_[m][2 + e] * CodeUnit();
      }
    }
  }

  const Scorer& scorer_;
  int head_;
  float scale_;
  float bias_;
  float sum_ = 0;                   // of the lane's head and tiles
  float codes_[kMatrices][4] = {};  // results of products
};

/// Asks for what the tail of the row's head is estimated by.
__device__ inline void PrefetchEstimate(const DecodeAttention& call, const float* estimate) {
  constexpr int kLineFloats = 32;
  const SummaryShape shape = {call.label_width, call.head_dim};
  for (int i = threadIdx.x * kLineFloats; i < shape.read_floats(); i += blockDim.x * kLineFloats) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(estimate + i));
  }
}

/// Writes DecodeAttention::tails of the head from what all blocks of its cluster have shared.
template <int kWidth, int kHeads>
__device__ void WriteTail(const DecodeHead& head, float weight, const float* estimate,
                          const Threshold& threshold, const Shared& shared,
                          TailShared<kWidth, kHeads>& sums) {
  const DecodeAttention& call = head.call;
  const int dim = call.head_dim;
  for (int i = threadIdx.x; i < sums.kSums; i += blockDim.x) {
    float total = 0;
    for (int rank = 0; rank < ClusterSize(); ++rank) total += *OfRank(&sums.of_block[i], rank);
    sums.of_all[i] = total;
  }
  __syncthreads();
  const float* const mean_code = estimate;
  const float* const mean_value = mean_code + kWidth;
  const float* const mean_key = mean_value + dim;
  const float* const slopes = mean_key + dim;
  float* const tails = call.tails + int64_t{head.item} * call.group * (1 + dim);

  const int h = threadIdx.x / 32;
  if (ClusterRank() == 0 && h < call.group) {
    const int lane = threadIdx.x % 32;
    const float* const query = head.Queries() + h * dim;
    float above = 0;  // by how much scores lie above those that labels say
    for (int c = lane; c < dim; c += 32) above += query[c] * mean_key[c];
    above *= kLog2e * call.scale;
    if (lane < kWidth) {
      above -= shared.queries.scale[h] * static_cast<float>(shared.queries.codes[h][lane]) *
               mean_code[lane];
    }
    above = WarpSum(above);
    const float bias = TailSums<kWidth, kHeads>::BiasOf(h, threshold, shared);
    if (lane == 0) {
      tails[h * (1 + dim)] = log2f(weight) + above + log2f(sums.of_all[h * (1 + kWidth)]) - bias;
    }
  }
  const int threads = ClusterSize() * blockDim.x;
  for (int x = ClusterRank() * blockDim.x + threadIdx.x; x < call.group * dim; x += threads) {
    const int of_head = x / dim;
    const int c = x % dim;
    const float* const mine = &sums.of_all[of_head * (1 + kWidth)];
    const float inverse = mine[0] > 0 ? 1 / mine[0] : 0;
    float value = mean_value[c];
#pragma unroll 8
    for (int i = 0; i < kWidth; ++i) {
      value = fmaf(mine[1 + i] * inverse - mean_code[i], slopes[i * dim + c], value);
    }
    tails[of_head * (1 + dim) + 1 + c] = value;
  }
}

}  // namespace winnow::cuda::select
