#pragma once

#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/cluster.cuh"
#include "kernels/cuda/decode_attention.h"
#include "kernels/cuda/math.cuh"
#include "kernels/cuda/select_range.cuh"
#include "kernels/cuda/select_tail_group.cuh"
#include "kernels/cuda/select_tail_one.cuh"
#include "kernels/cuda/select_threshold.cuh"
#include "kernels/cuda/token_scorers.cuh"
#include "kernels/summary.h"

// What is made of a block's sums over the tokens that a head has not chosen: see decode_select.cu.

namespace winnow::cuda::select {

/// Leaves the block's sums of its warps'.
template <int kWidth, int kHeads>
__device__ inline void ShareTail(TailSums<kWidth, kHeads>& tail,
                                 TailShared<kWidth, kHeads>& shared) {
  constexpr int kSums = TailShared<kWidth, kHeads>::kSums;
  constexpr int kRound = TailShared<kWidth, kHeads>::kRound;
  constexpr int kThreadSums = CeilDivide(kSums, kFirstThreads);
  const int warp = threadIdx.x / 32;
  float totals[kThreadSums] = {};
#pragma unroll 1
  for (int first = 0; first < BlockWarps(); first += kRound) {
    __syncthreads();
    if (warp / kRound * kRound == first) tail.Write(shared.of_warp[warp - first]);
    __syncthreads();
    if (threadIdx.x >= kFirstThreads) continue;
#pragma unroll
    for (int n = 0; n < kThreadSums; ++n) {
      const int i = threadIdx.x + n * kFirstThreads;
      if (i >= kSums) break;
      const int count = min(kRound, BlockWarps() - first);
#pragma unroll 8
      for (int w = 0; w < count; ++w) totals[n] += shared.of_warp[w][i];
    }
  }
  if (threadIdx.x >= kFirstThreads) return;
#pragma unroll
  for (int n = 0; n < kThreadSums; ++n) {
    const int i = threadIdx.x + n * kFirstThreads;
    if (i < kSums) shared.of_block[i] = totals[n];
  }
}

/// Starts copying what the tail of a head is estimated by to shared memory.
__device__ inline void StageEstimate(const __half* estimate, const SummaryShape& shape,
                                     uint4* staged) {
  constexpr int kChunkBytes = 16;
  const auto chunks = static_cast<int>(shape.estimate_bytes()) / kChunkBytes;
  const auto* const from = reinterpret_cast<const uint4*>(estimate);
  // From the last thread on: the first ones have queries to prepare.
  for (int i = blockDim.x - 1 - threadIdx.x; i < chunks; i += blockDim.x) {
    CopyAsync(static_cast<uint32_t>(__cvta_generic_to_shared(&staged[i])), &from[i], true);
  }
  CommitCopies();
}

/// What makes a piece of the softmax of a head's tail, by its staged estimate.
template <int kWidth, int kHeads>
class TailEstimate {
 public:
  using Tail = TailSums<kWidth, kHeads>;

  __device__ TailEstimate(const DecodeHead& head, const uint4* staged)
      : head_(head),
        dim_(head.call.head_dim),
        mean_code_(reinterpret_cast<const __half*>(staged)),
        mean_value_(mean_code_ + kWidth),
        mean_key_(mean_value_ + dim_),
        slopes_(mean_key_ + dim_) {}

  /// Writes DecodeAttention::tails from what all blocks of the cluster have shared.
  __device__ void Write(float weight, const Threshold& threshold, const Shared& shared,
                        TailShared<kWidth, kHeads>& sums) const {
    for (int i = threadIdx.x; i < sums.kSums; i += blockDim.x) {
      const int of_head = i % sums.kHeadSums;
      float total = of_head == 0 ? Tail::kBesides : 0;
      for (int rank = 0; rank < ClusterSize(); ++rank) total += *OfRank(&sums.of_block[i], rank);
      // What sums of all tokens' weights cannot tell from nothing.
      if (of_head == 0 && total < 0x1p-18f * Tail::kBesides) total = 0;
      sums.of_all[i] = total;
    }
    __syncthreads();
    const int group = head_.call.group;
    float* const tails = head_.call.tails + int64_t{head_.item} * group * (1 + dim_);
    const int threads = ClusterSize() * blockDim.x;
    for (int x = ClusterRank() * blockDim.x + threadIdx.x; x < group * dim_; x += threads) {
      const int h = x / dim_;
      tails[h * (1 + dim_) + 1 + x % dim_] = Value(&sums.of_all[h * sums.kHeadSums], x % dim_);
    }
    // The last warps, which have the fewest values to write, if any.
    const int h = BlockWarps() - 1 - static_cast<int>(threadIdx.x) / 32;
    if (ClusterRank() == 0 && h < group) {
      const float above = Above(h, shared);
      const float bias = Tail::BiasOf(h, threshold, shared);
      if (threadIdx.x % 32 == 0) {
        tails[h * (1 + dim_)] =
            log2f(weight) + above + log2f(sums.of_all[h * sums.kHeadSums]) - bias;
      }
    }
  }

 private:
  // By how much a query head's scores lie above those of labels, of the whole warp.
  __device__ float Above(int h, const Shared& shared) const {
    const int lane = threadIdx.x % 32;
    const float* const query = head_.Queries() + h * dim_;
    float dot = 0;
    for (int c = lane; c < dim_; c += 32) dot += query[c] * __half2float(mean_key_[c]);
    float above = kLog2e * head_.call.scale * dot;
    if (lane < kWidth) {
      above -= shared.queries.scale[h] * static_cast<float>(shared.queries.codes[h][lane]) *
               __half2float(mean_code_[lane]);
    }
    return WarpSum(above);
  }

  // Number c of the mean value of a head with these sums.
  __device__ float Value(const float* sums, int c) const {
    float value = __half2float(mean_value_[c]);
    if (!(sums[1] > 0)) return value;  // its codes may as well be those of the summary
    const float inverse = 1 / sums[1];
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      value = fmaf(sums[2 + i] * inverse - __half2float(mean_code_[i]),
                   __half2float(slopes_[i * dim_ + c]), value);
    }
    return value;
  }

  const DecodeHead& head_;
  const int dim_;
  const __half* const mean_code_;
  const __half* const mean_value_;
  const __half* const mean_key_;
  const __half* const slopes_;
};

}  // namespace winnow::cuda::select
