#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "kernels/backend.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/prefill_attention.h"
#include "kernels/cuda/renew_summaries.h"
#include "kernels/cuda/step_shape.h"
#include "kernels/selection.h"
#include "kernels/step_batch.h"

namespace winnow::cuda {

/// The arrays of the current step in device memory, and how its rows are divided: decoding rows,
/// which attend on their own, and tiles of rows of a prompt. All pointers stay the same for steps
/// of one shape until `generation` changes.
class StepArrays {
 public:
  StepArrays();
  ~StepArrays();
  StepArrays(const StepArrays&) = delete;
  StepArrays& operator=(const StepArrays&) = delete;

  /// Takes the memory for any step within the limits.
  absl::Status Reserve(const StepLimits& limits);

  /// Lays the batch out and queues one copy to the device.
  absl::Status Upload(const StepBatch& batch, cudaStream_t stream);

  const StepShape& shape() const { return shape_; }
  /// Counts how often the arrays have moved.
  int generation() const { return generation_; }

  const int32_t* tokens = nullptr;            ///< [rows]
  const int32_t* positions = nullptr;         ///< [rows]
  const int32_t* sequences = nullptr;         ///< [rows] sequence of each row
  const int32_t* block_tables = nullptr;      ///< [groups, sequences, shape().max_blocks]
  const int32_t* decode_rows = nullptr;       ///< [decode rows] their rows
  const int32_t* decode_sequences = nullptr;  ///< [decode rows]
  const int32_t* contexts = nullptr;          ///< [decode rows]
  const Selection* selections = nullptr;      ///< [decode rows]
  const int32_t* estimates = nullptr;         ///< [decode rows] what they estimate by (kNoEstimate)
  const SummaryTask* tasks = nullptr;         ///< [shape().renewals]
  const PrefillTile* tiles = nullptr;         ///< [tiles], longest contexts first
  const int32_t* logit_rows = nullptr;        ///< as in the batch

  /// [sequences, shape().max_blocks] for the layers of a group.
  const int32_t* BlockTables(int group) const {
    return block_tables + int64_t{group} * shape_.sequences * shape_.max_blocks;
  }

  /// Summaries beside those in slots that a step of the rows and sequences can need, at most.
  static int MostLonger(int rows, int sequences) { return rows / kSummaryPiece + sequences; }

  /// Index among the decoding rows, or -1.
  int DecodeRowOf(int row) const;

 private:
  void Divide(const StepBatch& batch);
  SummaryTask TaskOf(const StepBatch& batch, int sequence) const;
  absl::Status Grow(int64_t bytes);

  StepShape shape_;
  std::vector<int32_t> row_sequences_;
  std::vector<int32_t> decode_rows_;
  std::vector<int32_t> decode_sequences_;
  std::vector<int32_t> contexts_;
  std::vector<Selection> selections_;
  std::vector<int32_t> estimates_;
  std::vector<SummaryTask> tasks_;
  std::vector<PrefillTile> tiles_;
  std::vector<int32_t> tables_;

  std::unique_ptr<PinnedBuffer> host_;
  std::unique_ptr<DeviceBuffer> device_;
  cudaEvent_t copied_ = nullptr;  ///< the last copy has left host_
  int generation_ = 0;
};

}  // namespace winnow::cuda
