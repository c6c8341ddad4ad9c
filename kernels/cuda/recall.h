#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/decode_attention.h"

namespace winnow::cuda {

/// One KV head of one of the decoding rows of a DecodeAttention.
struct DecodeProbe {
  int32_t row;  ///< of the decoding rows
  int32_t kv_head;
};

/// Queues recalls[i] = share of the exact softmax mass over the context that the tokens hold which
/// `call`, finished before, selected for probes[i]; mean over the query heads, 1 where it is dense.
/// `probes` and `recalls` [count] are in device memory. Reads every key. Returns the launch's
/// error.
cudaError_t LaunchMeasureRecall(const DecodeAttention& call, const DecodeProbe* probes, int count,
                                float* recalls, cudaStream_t stream);

}  // namespace winnow::cuda
