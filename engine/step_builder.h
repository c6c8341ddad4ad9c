#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/model/forward_pass.h"
#include "engine/scheduler.h"
#include "kernels/step_batch.h"

namespace winnow {

/// Lays a schedule out as the arrays of a StepBatch. Holds the arrays, reused from step to step.
class StepBuilder {
 public:
  explicit StepBuilder(AttentionShape shape) : shape_(shape) {}

  /// Valid until the next call. The logit row of the i-th chunk that wants logits is the i-th.
  StepBatch Build(std::span<const ScheduledChunk> chunks);

  /// Whose recall the i-th probe of the batch measures, and at which position.
  struct Probed {
    RecallProbe probe;
    Sequence* sequence;
    int position;
  };
  std::span<const Probed> probed() const { return probed_; }

 private:
  const AttentionShape shape_;
  std::vector<int32_t> tokens_;
  std::vector<int32_t> positions_;
  std::vector<int32_t> query_begin_;
  std::vector<int32_t> block_tables_;
  std::vector<int32_t> logit_rows_;
  std::vector<Selection> selections_;
  std::vector<Probed> probed_;
  std::vector<RecallProbe> probes_;
};

}  // namespace winnow
