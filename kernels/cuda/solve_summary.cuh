#pragma once

#include <cuda_fp16.h>

#include "kernels/cuda/math.cuh"
#include "kernels/summary.h"

namespace winnow::cuda {

/// Replaces the covariances of codes, [width, width + 1], by the lower factor of their ridge
/// regression's matrix, with the inverses of its diagonal. All zeros, if codes do not vary. By one
/// warp, of which lane i has row i.
template <int kWidth>
__device__ inline void FactoriseSummary(float* matrix) {
  const int lane = threadIdx.x % 32;
  float* const mine = matrix + min(lane, kWidth - 1) * (kWidth + 1);
  const float trace = WarpSum(lane < kWidth ? mine[lane] : 0.0f);
  constexpr auto kRidge = static_cast<float>(kSummaryRidge / kWidth);
  float row[kWidth];
#pragma unroll
  for (int j = 0; j < kWidth; ++j) {
    row[j] = mine[j] + (j == lane ? kRidge * trace : 0);
  }
  float inverse = 0;
#pragma unroll
  for (int k = 0; k < kWidth; ++k) {
    const float of_pivot = rsqrtf(__shfl_sync(~0u, row[k], k));
    if (lane == k) inverse = of_pivot;
    row[k] *= of_pivot;
#pragma unroll
    for (int j = k + 1; j < kWidth; ++j) row[j] -= row[k] * __shfl_sync(~0u, row[k], j);
  }
  __syncwarp();  // the other lanes have read the last row, too
  if (lane >= kWidth) return;
#pragma unroll
  for (int j = 0; j < kWidth; ++j) {
    const float value = j < lane ? row[j] : j == lane ? inverse : 0;
    mine[j] = trace > 0 ? value : 0;
  }
}

/// What fp16 has no room for becomes the largest that it has.
__device__ inline __half BoundedHalf(float x) {
  constexpr float kLargest = 65504;
  return __float2half_rn(fminf(fmaxf(x, -kLargest), kLargest));
}

/// Makes means and slopes, `estimate`, of totals and moments of so many tokens: covariances, which
/// are differences of large sums, in fp64, and what the ridge keeps well-conditioned in fp32. All
/// threads take part, of which there are at least head_dim; what they summed is there to be seen by
/// all. `factor` [width, width + 1] is scratch in shared memory.
template <int kWidth>
__device__ inline void SolveSummary(const SummaryShape& shape, int tokens, const float* sums,
                                    float* factor, __half* estimate) {
  const double inverse = 1.0 / tokens;
  const float* const totals = sums + shape.totals();
  const int rows = static_cast<int>(shape.rows());
  for (int c = threadIdx.x; c < rows; c += blockDim.x) {
    estimate[c] = BoundedHalf(static_cast<float>(totals[c] * inverse));
  }
  const auto covariance = [&](int i, int column) {
    const double moment = sums[shape.moments() + i * (kWidth + shape.head_dim) + column];
    return static_cast<float>((moment - totals[i] * inverse * totals[column]) * inverse);
  };
  for (int x = threadIdx.x; x < kWidth * kWidth; x += blockDim.x) {
    factor[x / kWidth * (kWidth + 1) + x % kWidth] = covariance(x / kWidth, x % kWidth);
  }
  __syncthreads();
  if (threadIdx.x < 32) FactoriseSummary<kWidth>(factor);
  __syncthreads();
  // Read again where it is used again: there are not as many registers.
  const volatile float* const read_factor = factor;
  const auto of_factor = [&](int i, int j) { return read_factor[i * (kWidth + 1) + j]; };
  const int c = threadIdx.x;
  if (c >= shape.head_dim) return;
  float x[kWidth];
#pragma unroll
  for (int i = 0; i < kWidth; ++i) x[i] = covariance(i, kWidth + c);
#pragma unroll
  for (int k = 0; k < kWidth; ++k) {
    x[k] *= of_factor(k, k);
#pragma unroll
    for (int i = k + 1; i < kWidth; ++i) x[i] -= of_factor(i, k) * x[k];
  }
#pragma unroll
  for (int k = kWidth - 1; k >= 0; --k) {
    x[k] *= of_factor(k, k);
#pragma unroll
    for (int i = 0; i < k; ++i) x[i] -= of_factor(k, i) * x[k];
  }
#pragma unroll
  for (int i = 0; i < kWidth; ++i) {
    estimate[rows + i * shape.head_dim + c] = BoundedHalf(x[i]);
  }
}

}  // namespace winnow::cuda
