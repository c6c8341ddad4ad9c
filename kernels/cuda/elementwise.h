#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/activation.h"
#include "kernels/tensor.h"

// Operators on rows, as kernels/backend.h describes them. Each queues one kernel and returns the
// launch's error. All pointers are to device memory.

namespace winnow::cuda {

/// out[t, :] = scale table[tokens[t], :]; table bf16 [vocab, out.columns], out fp32.
cudaError_t LaunchEmbed(const void* table, const int32_t* tokens, float scale, const Tensor& out,
                        cudaStream_t stream);

/// out[t, c] = activation(gate_up[t, c]) * gate_up[t, out.columns + c]; both bf16.
cudaError_t LaunchGate(Activation activation, const Tensor& gate_up, const Tensor& out,
                       cudaStream_t stream);

/// out[i, :] = x[rows[i], :]; both fp32.
cudaError_t LaunchGatherRows(const Tensor& x, const int32_t* rows, const Tensor& out,
                             cudaStream_t stream);

/// out[t, n] += bias[n]; out fp32 or bf16.
cudaError_t LaunchAddBias(const float* bias, const Tensor& out, cudaStream_t stream);

/// x[t, c] = cap tanh(x[t, c] / cap); fp32.
cudaError_t LaunchSoftCap(float cap, const Tensor& x, cudaStream_t stream);

}  // namespace winnow::cuda
