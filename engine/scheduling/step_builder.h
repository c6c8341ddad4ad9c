#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/model/forward_pass.h"
#include "engine/scheduling/scheduler.h"
#include "kernels/step_batch_builder.h"

namespace winnow {

/// Lays a schedule out as a StepBatch.
class StepBuilder {
 public:
  explicit StepBuilder(AttentionShape shape) : shape_(shape) {}

  /// Valid until the next call. The logit row of the i-th chunk that wants logits is the i-th.
  StepBatch Build(std::span<const ScheduledChunk> chunks);

  /// Whose recall the i-th probe of the batch measures, and at which position.
  struct Probed {
    Sequence* sequence;
    int position;
  };
  const Probed& probed(size_t i) const { return probed_[rows_.probe_order()[i]]; }

 private:
  const AttentionShape shape_;
  StepBatchBuilder rows_;
  std::vector<Probed> probed_;
};

}  // namespace winnow
