#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/backend.h"

namespace winnow {

/// The backend that computes on an NVIDIA GPU (compute capability 8.0 or later), the first that
/// CUDA_VISIBLE_DEVICES leaves visible. Weights are bf16, keys and values fp16, sums fp32.
/// FAILED_PRECONDITION when there is no driver, no such device, or no cuBLAS.
absl::StatusOr<std::unique_ptr<Backend>> CreateCudaBackend();

}  // namespace winnow
