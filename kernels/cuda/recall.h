#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/decode_attention.h"
#include "kernels/step_batch.h"

namespace winnow::cuda {

/// One KV head of one of the decoding rows of a DecodeAttention.
struct DecodeProbe {
  int32_t row;  ///< of the decoding rows
  int32_t kv_head;
};

/// Queues probed[i] = what the tokens hold which `call`, finished before, selected for probes[i],
/// and what its tails have. `probes` and `probed` [count] are in device memory. Reads every key.
/// Returns the launch's error.
cudaError_t LaunchMeasureRecall(const DecodeAttention& call, const DecodeProbe* probes, int count,
                                ProbedMass* probed, cudaStream_t stream);

}  // namespace winnow::cuda
