#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace winnow::cuda {

/// Queues one kernel that reads `bytes` (a multiple of 16) at `data` once, in order, and does
/// nothing else. `sink` is one float in device memory. Returns the launch's error.
cudaError_t LaunchRead(const void* data, int64_t bytes, float* sink, cudaStream_t stream);

}  // namespace winnow::cuda
