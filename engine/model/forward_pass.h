#pragma once

#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "kernels/step_batch.h"

namespace winnow {

/// What the engine needs of a model: one step's rows in, logits out, keys and values kept in the
/// KV blocks that the batch names. Implemented by Transformer, and by fakes in scheduler tests.
class ForwardPass {
 public:
  virtual ~ForwardPass() = default;

  /// Computes the batch, writes its keys and values to their blocks and fills
  /// `logits` ([batch.logit_rows.size(), vocab]). An error means that the device failed.
  virtual absl::Status Forward(const StepBatch& batch, std::span<float> logits) = 0;

  /// Copies the first `tokens` tokens of KV block `from` to block `to`, in every layer: a sequence
  /// that forks gets its own copy of a partly filled block.
  virtual absl::Status CopyBlock(int32_t from, int32_t to, int tokens) = 0;

  virtual int vocab() const = 0;
};

}  // namespace winnow
