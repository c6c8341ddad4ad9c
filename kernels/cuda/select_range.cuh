#pragma once

#include <cstdint>

#include "kernels/cuda/cluster.cuh"
#include "kernels/cuda/token_scorers.cuh"

// What a cluster of blocks that chooses the tokens of one KV head divides among its warps, and what
// each block of it keeps in shared memory: see decode_select.cu.

namespace winnow::cuda::select {

inline constexpr int kMinWarps = kFirstThreads / 32;
inline constexpr int kMaxWarps = 32;
inline constexpr int kMaxCluster = 8;
inline constexpr int kStepTokens = 32 * kLaneTokens;
inline constexpr int kBinBits = 11;
inline constexpr int kBins = 1 << kBinBits;
inline constexpr int kThreadBins = kBins / kFirstThreads;

__host__ __device__ constexpr int CeilDivide(int a, int b) { return (a + b - 1) / b; }
// Tokens of each of a head's warps: whole steps.
__host__ __device__ inline int WarpTokens(int context, int warps) {
  return CeilDivide(CeilDivide(context, warps), kStepTokens) * kStepTokens;
}

__device__ inline int BlockWarps() { return static_cast<int>(blockDim.x / 32); }

// Values of every thread of the cluster, folded. Used once: no thread may write it while others
// still read.
struct ClusterFold {
  float of_warp[kMaxWarps][kMaxGroup];
  float of_block[kMaxGroup];

  template <int kCount, typename Fold>
  __device__ void Run(float (&values)[kCount], float neutral, const Fold& fold) {
    const int lane = threadIdx.x % 32;
    const int warp = threadIdx.x / 32;
    const auto fold_lanes = [&](float value) {
      for (int step = 16; step > 0; step /= 2) {
        value = fold(value, __shfl_xor_sync(~0u, value, step));
      }
      return value;
    };
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const float value = fold_lanes(values[i]);
      if (lane == 0) of_warp[warp][i] = value;
    }
    __syncthreads();
    if (warp < kCount) {
      const float value = fold_lanes(lane < BlockWarps() ? of_warp[lane][warp] : neutral);
      if (lane == 0) of_block[warp] = value;
    }
    SyncCluster();
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      values[i] = neutral;
      for (int rank = 0; rank < ClusterSize(); ++rank) {
        values[i] = fold(values[i], *OfRank(&of_block[i], rank));
      }
    }
  }
};

// How far keys of the range are shifted to be numbers of bins.
__device__ inline int Shift(const KeyRange& range) {
  return max(0, 32 - __clz(range.largest - range.least) - kBinBits);
}

struct Chosen {
  int larger;
  int equal;
};

struct Shared {
  uint32_t histograms[2][kBins];
  GroupQueries queries;
  float factor[kMaxGroup];  // that makes a head's weights its part of their mean
  ClusterFold max;
  ClusterFold sum;
  int of_warp[kMinWarps];
  struct {
    uint32_t bin;
    int count;
    int wanted;
  } found;
  Chosen chosen[kMaxWarps];
};

// The tokens that a warp scores, and their keys.
struct Range {
  int begin;
  int end;
  int free_begin;  // of the tokens that a choice is made among, in the whole context
  int free_end;
  uint32_t* keys;  // of the tokens from `begin` on, up to whole steps

  __device__ int Steps() const { return end > begin ? CeilDivide(end - begin, kStepTokens) : 0; }
  __device__ uint4& LaneKeys(int step) const {
    return reinterpret_cast<uint4*>(keys)[step * 32 + threadIdx.x % 32];
  }
  __device__ int LanePosition(int step) const {
    return begin + step * kStepTokens + threadIdx.x % 32 * kLaneTokens;
  }
  // Whether the warp has the steps [step, step + count) and there is a choice among all their
  // tokens.
  __device__ bool AreFree(int step, int count) const {
    const int position = begin + step * kStepTokens;
    return step + count <= Steps() && position >= free_begin &&
           position + count * kStepTokens <= free_end;
  }
};

}  // namespace winnow::cuda::select
