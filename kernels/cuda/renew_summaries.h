#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/summary.h"

namespace winnow::cuda {

/// What a step does to the summary of one of its sequences.
struct SummaryTask {
  int32_t sequence = -1;  ///< row of the block tables; -1: nothing is to be done
  int32_t slot = 0;       ///< of KvView::summaries
  int32_t held = 0;       ///< first tokens that the slot holds
  int32_t tokens = 0;     ///< that it is to hold: those before the sequence's first row
  int32_t last = 0;       ///< that the sequence's last row wants summarised
  int32_t longer = 0;     ///< the first of RenewSummaries::longer that is this sequence's
};

/// Which estimate a row reads: of a slot, if it is at least 0, or one of RenewSummaries::longer.
inline constexpr int32_t kNoEstimate = -1;
constexpr int32_t LongerEstimate(int32_t index) { return kNoEstimate - 1 - index; }

/// The summaries of one layer, as of kernels/summary.h. All pointers are to device memory.
struct RenewSummaries {
  int kv_heads = 0;
  int head_dim = 0;
  int block_tokens = 0;  ///< a power of two, at least 16
  int label_width = 0;   ///< a multiple of 8, at most kMaxDecodeLabelWidth
  const std::byte* kv = nullptr;
  const std::byte* labels = nullptr;
  int32_t sinks = 0;
  const int32_t* block_tables = nullptr;  ///< [sequences, max_blocks]
  int max_blocks = 0;
  float* summaries = nullptr;  ///< KvView::summaries
  /// [of all tasks, kv_heads] means and slopes in fp16 of summaries that are longer than the
  /// slots', one for every piece from `tokens` to `last`: they are made for the step alone.
  uint16_t* longer = nullptr;
  int tasks = 0;
  const SummaryTask* task = nullptr;  ///< [tasks]
};

/// Queues what the tasks ask for. Tokens are added up in their order, some at a time, so that a
/// slot holds the same bits whenever its tokens were added. Returns the launch's error.
cudaError_t LaunchRenewSummaries(const RenewSummaries& call, cudaStream_t stream);

}  // namespace winnow::cuda
