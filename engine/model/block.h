#pragma once

#include <memory>

#include "engine/attention/policy.h"
#include "engine/model/linear.h"
#include "engine/model/step_context.h"
#include "kernels/selection.h"
#include "kernels/tensor.h"

namespace winnow {

/// The half of a layer in which rows take from the rows before them. A module queues operators;
/// what it queues for batches of one shape is the same, so that a backend may replay it
/// (Backend::Replay).
class Mixer {
 public:
  virtual ~Mixer() = default;

  /// Adds what the module computes of `x`, the residual stream, to it: fp32 [rows, hidden].
  virtual void Run(const StepContext& context, Tensor x) const = 0;

  /// Adds what a row with this selection reads of the `context` tokens up to its own.
  virtual void AddTraffic(const Selection& selection, int context, KvTraffic* traffic) const = 0;

  /// Adds what a prompt's rows read: ForwardPass::PromptTraffic.
  virtual void AddPromptTraffic(int begin, int end, KvTraffic* traffic) const = 0;

  virtual WeightTotals totals() const = 0;
};

/// The half of a layer that computes each row for itself.
class FeedForward {
 public:
  virtual ~FeedForward() = default;

  /// As Mixer::Run.
  virtual void Run(const StepContext& context, Tensor x) const = 0;

  virtual WeightTotals totals() const = 0;
};

/// One layer.
struct Block {
  std::unique_ptr<Mixer> mixer;
  std::unique_ptr<FeedForward> feed_forward;

  void Run(const StepContext& context, Tensor x) const {
    mixer->Run(context, x);
    feed_forward->Run(context, x);
  }
};

}  // namespace winnow
