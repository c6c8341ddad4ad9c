#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/tensor.h"
#include "kernels/token_choice.h"

namespace winnow::cuda {

/// A token that is to be described, in device memory.
struct WantedDescription {
  int32_t row;           ///< of the call's logits
  int32_t token;         ///< the one that was chosen
  int32_t alternatives;  ///< most probable tokens to describe besides; not more than there are
  int32_t result;        ///< where the description begins: 1 + alternatives results
};

/// Queues the descriptions of `wanted` [count]: the token and its log-probability in its row of
/// logits [rows, columns], then the most probable tokens and theirs, as of Backend::DescribeTokens.
/// `wanted` and `results` are in device memory. Returns the launch's error.
cudaError_t LaunchDescribeTokens(const Tensor& logits, const WantedDescription* wanted, int count,
                                 TokenLogprob* results, cudaStream_t stream);

}  // namespace winnow::cuda
