#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "engine/model/block.h"
#include "engine/model/linear.h"
#include "engine/model/model_spec.h"
#include "engine/model/module_output.h"
#include "engine/model/rms_norm.h"
#include "engine/model/weight_loader.h"
#include "kernels/activation.h"

namespace winnow {

/// x += W_down (activation(W_gate n) * (W_up n)) with n = norm(x): SwiGLU, GeGLU. The matrices may
/// have biases.
class GatedFeedForward : public FeedForward {
 public:
  /// The errors of WeightLoader.
  static absl::StatusOr<std::unique_ptr<FeedForward>> Load(const FeedForwardSpec& spec,
                                                           Activation activation,
                                                           float norm_epsilon,
                                                           const WeightLoader& loader);

  void Run(const StepContext& context, Tensor x) const override;

  WeightTotals totals() const override;

 private:
  explicit GatedFeedForward(Activation activation) : activation_(activation) {}

  const Activation activation_;
  RmsNorm norm_;
  Linear gate_up_;     ///< [2 ffn, hidden]
  ModuleOutput down_;  ///< [hidden, ffn]
};

}  // namespace winnow
