#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/tensor.h"
#include "kernels/token_choice.h"

namespace winnow::cuda {

/// A TokenChoice in device memory.
struct DeviceChoice {
  TokenChoice choice;                ///< with a row of the call's logits, and no edits
  const LogitEdit* edits = nullptr;  ///< device
  int32_t edit_count = 0;

  /// Whether LaunchChooseTokens needs scratch memory for it.
  bool NeedsScratch() const { return edit_count > 0 || choice.temperature != 0; }
};

/// Queues tokens[i] = what choices[i] makes of its row of logits [rows, columns], as of
/// Backend::ChooseTokens. `choices` [count] and `tokens` [count] are in device memory, as is
/// `scratch` [count, logits.columns], which may be null if no choice needs it. Weights are relative
/// to the largest and have 40 bits after the point; sums of them are exact. Returns the launch's
/// error.
cudaError_t LaunchChooseTokens(const Tensor& logits, const DeviceChoice* choices, int count,
                               float* scratch, int32_t* tokens, cudaStream_t stream);

}  // namespace winnow::cuda
