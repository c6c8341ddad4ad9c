#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "kernels/backend.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/scratch.h"

namespace winnow::cuda {

/// Backend::ChooseTokens: brings choices to the device, some at a time, and tokens back.
class TokenChoices {
 public:
  /// Takes the memory for any step within the limits.
  absl::Status Reserve(const StepLimits& limits, cudaStream_t stream);

  /// tokens[i] = the token that choices[i] makes of logits[choices[i].row - first, :]; waits for
  /// them. `staging` is scratch in host memory.
  absl::Status Choose(const Tensor& logits, int first, std::span<const TokenChoice> choices,
                      PinnedBuffer& staging, int32_t* tokens, cudaStream_t stream);

 private:
  Scratch chosen_;   ///< choices, the tokens that they make, and their edits
  Scratch weights_;  ///< [choices, vocab]
};

}  // namespace winnow::cuda
