#pragma once

#include <cuda_runtime_api.h>

#include "kernels/kv_view.h"
#include "kernels/tensor.h"

// Root mean square norms, as kernels/backend.h describes them. Each queues one kernel and returns
// the launch's error. All pointers are to device memory; `x` is fp32.

namespace winnow::cuda {

/// out[t, c] = x[t, c] / sqrt(mean_c(x[t, c]^2) + epsilon) * weight[c]; out bf16.
cudaError_t LaunchRmsNorm(const Tensor& x, const float* weight, float epsilon, const Tensor& out,
                          cudaStream_t stream);

/// sum[t, c] += the same; sum fp32.
cudaError_t LaunchAddNormalized(const Tensor& x, const float* weight, float epsilon,
                                const Tensor& sum, cudaStream_t stream);

/// Norms of queries and keys.
struct HeadNorms {
  Tensor qkv;  ///< fp32 [rows, (heads + 2 kv_heads) head_dim]
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;                     ///< a multiple of 4, at most 256
  const float* query_weight = nullptr;  ///< [head_dim]
  const float* key_weight = nullptr;
  float epsilon = 0;
};

/// Each head x of the queries and keys becomes x[c] / sqrt(mean_c(x[c]^2) + epsilon) * weight[c].
cudaError_t LaunchNormalizeHeads(const HeadNorms& call, cudaStream_t stream);

}  // namespace winnow::cuda
