#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/cuda/decode_attention.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/scratch.h"
#include "kernels/cuda/step_arrays.h"

namespace winnow::cuda {

/// Attention of a step's decoding rows: the memory that it takes beside its arguments, and as many
/// calls as that bounds.
class DecodeRows {
 public:
  /// Takes the memory for any step within the limits.
  absl::Status Reserve(const StepLimits& limits, cudaStream_t stream);

  /// Brings the summaries of the step's sequences up to date, where its layer's tails count:
  /// before Attend.
  absl::Status RenewSummaries(const StepArrays& arrays, const KvView& kv,
                              const LayerAttention& attention, cudaStream_t stream);

  /// Queues Backend::Attention of the decoding rows of `arrays`.
  absl::Status Attend(const StepArrays& arrays, const Tensor& qkv, int heads, const KvView& kv,
                      const LayerAttention& attention, const Tensor& out, cudaStream_t stream);

  /// Backend::MeasureRecall after Attend; waits for the results. `staging` is scratch of at
  /// least a megabyte in host memory.
  absl::Status MeasureRecall(const StepArrays& arrays, std::span<const RecallProbe> probes,
                             PinnedBuffer& staging, ProbedMass* probed, cudaStream_t stream);

  /// Counts how often memory has moved that Attend uses.
  int moved() const {
    return selected_.moved() + workspace_.moved() + tails_.moved() + longer_.moved();
  }

 private:
  /// The call of the rows from `first` on that are computed together.
  DecodeAttention CallFrom(int first) const;
  /// Memory for all summaries of the step that are longer than its slots'.
  absl::StatusOr<uint16_t*> TakeLonger(const StepShape& shape, const KvShape& kv,
                                       cudaStream_t stream);
  absl::Status MeasureRows(int first, const StepArrays& arrays, std::span<const RecallProbe> probes,
                           PinnedBuffer& staging, ProbedMass* probed, cudaStream_t stream);

  Scratch selected_;      ///< [rows of a call, kv_heads, max_selected]
  Scratch workspace_;     ///< DecodeAttention::workspace
  Scratch tails_;         ///< DecodeAttention::tails
  Scratch longer_;        ///< RenewSummaries::longer
  Scratch probes_;        ///< of recall, and what they found
  DecodeAttention all_;   ///< all rows of the last Attend
  int rows_of_call_ = 1;  ///< of it
};

}  // namespace winnow::cuda
