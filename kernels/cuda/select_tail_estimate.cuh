#pragma once

#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/cuda/cluster.cuh"
#include "kernels/cuda/decode_attention.h"
#include "kernels/cuda/math.cuh"
#include "kernels/cuda/select_range.cuh"
#include "kernels/cuda/select_tail_group.cuh"
#include "kernels/cuda/select_tail_one.cuh"
#include "kernels/cuda/select_threshold.cuh"
#include "kernels/cuda/token_scorers.cuh"

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

/// Asks for what the tail of the row's head is estimated by.
__device__ inline void PrefetchEstimate(const DecodeAttention& call, const __half* estimate) {
  constexpr int kLineHalves = 64;
  const SummaryShape shape = {call.label_width, call.head_dim};
  const auto halves = static_cast<int>(shape.estimate_halves());
  for (int i = threadIdx.x * kLineHalves; i < halves; i += blockDim.x * kLineHalves) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(estimate + i));
  }
}

/// What makes a piece of the softmax of a head's tail. What does not depend on the sums is read
/// while they are made.
template <int kWidth, int kHeads>
class TailEstimate {
 public:
  using Tail = TailSums<kWidth, kHeads>;

  __device__ TailEstimate(const DecodeHead& head, const __half* estimate, const Shared& shared)
      : head_(head),
        dim_(head.call.head_dim),
        mean_value_(estimate + kWidth),
        slopes_(mean_value_ + 2 * dim_),
        first_(ClusterRank() * blockDim.x + threadIdx.x) {
    if (threadIdx.x < kWidth) mean_code_ = __half2float(estimate[threadIdx.x]);
    const int h = threadIdx.x / 32;
    if (ClusterRank() == 0 && h < head.call.group) {
      const int lane = threadIdx.x % 32;
      const __half* const mean_key = mean_value_ + dim_;
      const float* const query = head.Queries() + h * dim_;
      float dot = 0;
      for (int c = lane; c < dim_; c += 32) dot += query[c] * __half2float(mean_key[c]);
      above_ = kLog2e * head.call.scale * dot;
      if (lane < kWidth) {
        above_ -= shared.queries.scale[h] * static_cast<float>(shared.queries.codes[h][lane]) *
                  __half2float(estimate[lane]);
      }
    }
    if (first_ >= head.call.group * dim_) return;
    const int c = first_ % dim_;
    value_ = __half2float(mean_value_[c]);
#pragma unroll
    for (int i = 0; i < kEarly; ++i) of_first_[i] = __half2float(slopes_[i * dim_ + c]);
  }

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
    if (threadIdx.x < kWidth) sums.mean_code[threadIdx.x] = mean_code_;
    __syncthreads();
    const int group = head_.call.group;
    float* const tails = head_.call.tails + int64_t{head_.item} * group * (1 + dim_);
    const int h = threadIdx.x / 32;
    if (ClusterRank() == 0 && h < group) {
      const float above = WarpSum(above_);
      const float bias = Tail::BiasOf(h, threshold, shared);
      if (threadIdx.x % 32 == 0) {
        tails[h * (1 + dim_)] =
            log2f(weight) + above + log2f(sums.of_all[h * sums.kHeadSums]) - bias;
      }
    }
    if (first_ >= group * dim_) return;
    const int first = first_ % dim_;
    WriteValue(
        first_, value_, sums,
        [&](int i) {
          return i < kEarly ? of_first_[min(i, kEarly - 1)]
                            : __half2float(slopes_[i * dim_ + first]);
        },
        tails);
    const int threads = ClusterSize() * blockDim.x;
    for (int x = first_ + threads; x < group * dim_; x += threads) {
      const int c = x % dim_;
      WriteValue(
          x, __half2float(mean_value_[c]), sums,
          [&](int i) { return __half2float(slopes_[i * dim_ + c]); }, tails);
    }
  }

 private:
  template <typename Slope>
  __device__ void WriteValue(int x, float value, const TailShared<kWidth, kHeads>& sums,
                             const Slope& slope, float* tails) const {
    const int h = x / dim_;
    const float* const mine = &sums.of_all[h * sums.kHeadSums];
    if (mine[1] > 0) {  // else its codes may as well be those of the summary
      const float inverse = 1 / mine[1];
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        value = fmaf(mine[2 + i] * inverse - sums.mean_code[i], slope(i), value);
      }
    }
    tails[h * (1 + dim_) + 1 + x % dim_] = value;
  }

  static constexpr int kEarly = kWidth < 16 ? kWidth : 16;  // slopes: there are few registers

  const DecodeHead& head_;
  const int dim_;
  const __half* const mean_value_;
  const __half* const slopes_;
  const int first_;         // of the values that the thread writes
  float mean_code_ = 0;     // of the thread's dimension
  float above_ = 0;         // the lane's part of by how much scores lie above those of labels
  float value_ = 0;         // the mean value of the first one
  float of_first_[kEarly];  // its first slopes
};

}  // namespace winnow::cuda::select
