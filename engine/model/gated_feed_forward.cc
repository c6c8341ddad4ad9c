#include "engine/model/gated_feed_forward.h"

#include <utility>

namespace winnow {

absl::StatusOr<std::unique_ptr<FeedForward>> GatedFeedForward::Load(const FeedForwardSpec& spec,
                                                                    Activation activation,
                                                                    float norm_epsilon,
                                                                    const WeightLoader& loader) {
  std::unique_ptr<GatedFeedForward> module(new GatedFeedForward(activation));
  absl::StatusOr<RmsNorm> norm = RmsNorm::Load(spec.norm, norm_epsilon, loader);
  if (!norm.ok()) return norm.status();
  absl::StatusOr<Linear> gate_up = Linear::Load(spec.gate_up, loader);
  if (!gate_up.ok()) return gate_up.status();
  absl::StatusOr<ModuleOutput> down =
      ModuleOutput::Load(spec.down, spec.post_norm, norm_epsilon, loader);
  if (!down.ok()) return down.status();
  module->norm_ = *std::move(norm);
  module->gate_up_ = *std::move(gate_up);
  module->down_ = *std::move(down);
  return module;
}

void GatedFeedForward::Run(const StepContext& context, Tensor x) const {
  Backend& backend = context.backend;
  const Activations& a = context.activations;
  norm_.Run(backend, x, a.normed);
  gate_up_.Run(backend, a.normed, a.gate_up);
  backend.Gate(activation_, a.gate_up, a.gated);
  down_.AddTo(context, a.gated, x);
}

WeightTotals GatedFeedForward::totals() const {
  WeightTotals totals = gate_up_.totals();
  totals += down_.totals();
  return totals;
}

}  // namespace winnow
