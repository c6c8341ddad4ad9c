#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/scheduler.h"
#include "kernels/step_batch.h"

namespace winnow {

/// Lays a schedule out as the arrays of a StepBatch. Holds the arrays, reused from step to step.
class StepBuilder {
 public:
  /// Valid until the next call. The logit row of the i-th chunk that wants logits is the i-th.
  StepBatch Build(std::span<const ScheduledChunk> chunks);

 private:
  std::vector<int32_t> tokens_;
  std::vector<int32_t> positions_;
  std::vector<int32_t> query_begin_;
  std::vector<int32_t> block_tables_;
  std::vector<int32_t> logit_rows_;
};

}  // namespace winnow
