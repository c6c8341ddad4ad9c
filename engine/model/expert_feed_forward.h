#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "engine/model/block.h"
#include "engine/model/config.h"
#include "engine/model/linear.h"
#include "engine/model/model_spec.h"
#include "engine/model/rms_norm.h"
#include "engine/model/weight_loader.h"
#include "kernels/activation.h"
#include "kernels/backend.h"

namespace winnow {

/// What a layer of experts is told beside its weights.
struct ExpertSettings {
  MixtureConfig mixture;
  Activation activation = Activation::kSilu;  ///< of the experts' gates
  float norm_epsilon = 0;
};

/// A mixture of experts (Mixtral, Jiang et al. 2024, section 2.1):
///   x += sum_e g_e W_down,e (activation(W_gate,e n) * (W_up,e n)) with n = norm(x),
/// e in the experts whose router logits W_router n are the largest, weighted by their softmax
/// (Backend::Route).
class ExpertFeedForward : public FeedForward {
 public:
  /// The errors of WeightLoader. REQUIRES: Backend::CheckExperts takes the sizes.
  static absl::StatusOr<std::unique_ptr<FeedForward>> Load(const ExpertSpec& spec,
                                                           const ExpertSettings& settings,
                                                           const WeightLoader& loader);

  void Run(const StepContext& context, Tensor x) const override;

  WeightTotals totals() const override;

 private:
  explicit ExpertFeedForward(const ExpertSettings& settings) : settings_(settings) {}

  const ExpertSettings settings_;
  RmsNorm norm_;
  Linear router_;                    ///< [experts, hidden]
  std::unique_ptr<Matrix> gate_up_;  ///< [experts 2 ffn, hidden]: of each expert gate, then up
  std::unique_ptr<Matrix> down_;     ///< [experts hidden, ffn]
};

}  // namespace winnow
