#pragma once

#include <cuda_runtime_api.h>

#include "kernels/tensor.h"

namespace winnow::cuda {

/// Rows that LaunchThinProduct takes, at most. More are better left to cuBLAS.
inline constexpr int kMaxThinRows = 8;

/// True if LaunchThinProduct computes products of these shapes.
bool IsThinProduct(const Tensor& x, const Tensor& out);

/// Queues out[t, n] = sum_k x[t, k] w[n, k], added to what `out` holds if `accumulate`, for a few
/// rows t: reads w at the speed of memory, where cuBLAS leaves some of it. x is bf16, `w`
/// [out.columns, x.columns] too, out bf16 or fp32. Reads w before the kernel queued just before has
/// finished. REQUIRES: IsThinProduct. Returns the launch's error.
cudaError_t LaunchThinProduct(const Tensor& x, const void* w, bool accumulate, const Tensor& out,
                              cudaStream_t stream);

}  // namespace winnow::cuda
