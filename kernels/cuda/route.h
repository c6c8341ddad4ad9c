#pragma once

#include <cuda_runtime_api.h>

#include "kernels/expert_routes.h"
#include "kernels/tensor.h"

namespace winnow::cuda {

/// Queues Backend::Route. Returns the launches' first error.
cudaError_t LaunchRoute(const Tensor& logits, bool normalizes, const ExpertRoutes& routes,
                        cudaStream_t stream);

/// Queues Backend::AddExperts. REQUIRES: columns are a multiple of 4. Returns the launch's error.
cudaError_t LaunchAddExperts(const Tensor& x, const ExpertRoutes& routes, const Tensor& sum,
                             cudaStream_t stream);

}  // namespace winnow::cuda
