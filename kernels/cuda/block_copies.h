#pragma once

#include <cuda_runtime_api.h>

#include "kernels/block_copies.h"

namespace winnow::cuda {

/// Queues Backend::CopyToSlots or, unless `to_slots`, CopyFromSlots. Returns the launches' first
/// error.
cudaError_t LaunchBlockCopies(const BlockCopies& copies, bool to_slots, cudaStream_t stream);

}  // namespace winnow::cuda
