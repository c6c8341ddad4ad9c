#pragma once

#include <cuda_runtime_api.h>

#include <string_view>

#include "absl/status/status.h"

namespace winnow::cuda {

/// What a call of the CUDA runtime returned: OK, RESOURCE_EXHAUSTED when memory was short, else
/// INTERNAL. The message begins with the call's name.
absl::Status CudaStatus(cudaError_t error, std::string_view call);

}  // namespace winnow::cuda
