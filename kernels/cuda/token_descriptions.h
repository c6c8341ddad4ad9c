#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "kernels/backend.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/scratch.h"

namespace winnow::cuda {

/// Backend::DescribeTokens: brings what is wanted to the device, some at a time, and descriptions
/// back.
class TokenDescriptions {
 public:
  /// Takes the memory for any step.
  absl::Status Reserve(cudaStream_t stream);

  /// descriptions[i] = what logits[choices[i].row - first, :] says of tokens[i], where that is
  /// wanted; waits for it. `staging` is scratch in host memory.
  absl::Status Describe(const Tensor& logits, int first, std::span<const TokenChoice> choices,
                        const int32_t* tokens, PinnedBuffer& staging,
                        TokenDescription* descriptions, cudaStream_t stream);

 private:
  Scratch memory_;  ///< what is wanted, then results
};

}  // namespace winnow::cuda
