#pragma once

#include <algorithm>
#include <climits>
#include <cstdint>

#include "kernels/cuda/cluster.cuh"
#include "kernels/cuda/select_range.cuh"

// Finds the k-th largest key of a cluster, by histograms of ever narrower ranges of keys.

namespace winnow::cuda::select {

// Of the counts in the cluster's histograms: the bin in which the `wanted`-th key from above lies,
// how many it holds and how many of these are wanted.
__device__ inline void FindBin(const uint32_t* histogram, int wanted, Shared& shared) {
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const bool is_first = threadIdx.x < kFirstThreads;
  // Thread t has the t-th bins from above.
  const int first_bin = kBins - kThreadBins * (static_cast<int>(threadIdx.x) + 1);
  uint32_t of_bin[kThreadBins] = {};
  int of_thread = 0;
  int sum = 0;
  if (is_first) {
#pragma unroll 4
    for (int rank = 0; rank < ClusterSize(); ++rank) {
      const auto* bins = reinterpret_cast<const uint4*>(OfRank(histogram + first_bin, rank));
#pragma unroll
      for (int i = 0; i < kThreadBins / 4; ++i) {
        const uint4 more = bins[i];
        of_bin[4 * i] += more.x;
        of_bin[4 * i + 1] += more.y;
        of_bin[4 * i + 2] += more.z;
        of_bin[4 * i + 3] += more.w;
      }
    }
#pragma unroll
    for (int i = 0; i < kThreadBins; ++i) of_thread += static_cast<int>(of_bin[i]);
    sum = of_thread;
    for (int step = 1; step < 32; step *= 2) {
      const int above = __shfl_up_sync(~0u, sum, step);
      if (lane >= step) sum += above;
    }
    if (lane == 31) shared.of_warp[warp] = sum;
  }
  __syncthreads();
  if (is_first) {
    sum -= of_thread;
    sum += __reduce_add_sync(~0u, lane < warp ? shared.of_warp[lane] : 0);
    if (sum < wanted && sum + of_thread >= wanted) {
#pragma unroll
      for (int i = kThreadBins - 1; i >= 0; --i) {
        const int count = static_cast<int>(of_bin[i]);
        if (sum < wanted && sum + count >= wanted) {
          shared.found = {static_cast<uint32_t>(first_bin + i), count, wanted - sum};
        }
        sum += count;
      }
    }
  }
  __syncthreads();
}

// Chosen are keys above `key`, and of those equal to it the first `ties`.
struct Threshold {
  uint32_t key;
  int ties;
};

// The `wanted`-th largest of the cluster's keys, which MakeKeys has counted.
__device__ inline Threshold FindThreshold(const Range& range, KeyRange covered, int wanted,
                                          Shared& shared) {
  SyncCluster();
  for (int round = 0;; ++round) {
    const int shift = Shift(covered);
    FindBin(shared.histograms[round % 2], wanted, shared);
    const auto [bin, in_bin, left] = shared.found;
    const bool has_smaller = round == 0 && bin == 0 && covered.least > kAbsent + 1;
    const uint32_t least = covered.least + (bin << shift);
    // As a difference, since the last bin may reach past the last number. Each round after the
    // first leaves fewer bits by which keys can differ, whatever the counts.
    covered.largest = least + min(covered.largest - least, (1u << shift) - 1);
    covered.least = has_smaller ? kAbsent + 1 : least;
    wanted = left;
    if (covered.least == covered.largest) return {covered.least, wanted};
    if (in_bin == wanted) return {covered.least, INT_MAX};

    // The other blocks are done with what this histogram counted two rounds ago.
    uint32_t* const histogram = shared.histograms[(round + 1) % 2];
    for (int i = threadIdx.x; i < kBins; i += blockDim.x) histogram[i] = 0;
    __syncthreads();
    const int next_shift = Shift(covered);
    const uint32_t width = covered.largest - covered.least;
    for (int step = 0; step < range.Steps(); ++step) {
      const uint4 keys = range.LaneKeys(step);
      const uint32_t over[kLaneTokens] = {keys.x - covered.least, keys.y - covered.least,
                                          keys.z - covered.least, keys.w - covered.least};
      // Which is seldom.
      if (min(min(over[0], over[1]), min(over[2], over[3])) <= width) {
#pragma unroll
        for (int t = 0; t < kLaneTokens; ++t) {
          if (over[t] <= width) atomicAdd(&histogram[over[t] >> next_shift], 1);
        }
      }
    }
    SyncCluster();
  }
}

}  // namespace winnow::cuda::select
