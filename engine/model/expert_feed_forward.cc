#include "engine/model/expert_feed_forward.h"

#include <cstdint>
#include <utility>

namespace winnow {

absl::StatusOr<std::unique_ptr<FeedForward>> ExpertFeedForward::Load(const ExpertSpec& spec,
                                                                     const ExpertSettings& settings,
                                                                     const WeightLoader& loader) {
  std::unique_ptr<ExpertFeedForward> module(new ExpertFeedForward(settings));
  const int experts = settings.mixture.experts;
  absl::StatusOr<RmsNorm> norm = RmsNorm::Load(spec.norm, settings.norm_epsilon, loader);
  if (!norm.ok()) return norm.status();
  absl::StatusOr<Linear> router = Linear::Load(spec.router, loader);
  if (!router.ok()) return router.status();
  absl::StatusOr<std::unique_ptr<Matrix>> gate_up = loader.LoadExperts(spec.gate_up, experts);
  if (!gate_up.ok()) return gate_up.status();
  absl::StatusOr<std::unique_ptr<Matrix>> down = loader.LoadExperts(spec.down, experts);
  if (!down.ok()) return down.status();
  module->norm_ = *std::move(norm);
  module->router_ = *std::move(router);
  module->gate_up_ = *std::move(gate_up);
  module->down_ = *std::move(down);
  return module;
}

void ExpertFeedForward::Run(const StepContext& context, Tensor x) const {
  Backend& backend = context.backend;
  const Activations& a = context.activations;
  norm_.Run(backend, x, a.normed);
  router_.Run(backend, a.normed, a.router);
  backend.Route(a.router, settings_.mixture.normalizes, a.routes);
  backend.ExpertMatMul(a.normed, *gate_up_, a.routes, a.gate_up);
  backend.Gate(settings_.activation, a.gate_up, a.gated);
  backend.ExpertMatMul(a.gated, *down_, a.routes, a.expert_out);
  backend.AddExperts(a.expert_out, a.routes, x);
}

WeightTotals ExpertFeedForward::totals() const {
  const auto weights = [&](const Matrix& matrix) {
    return matrix.rows() / settings_.mixture.experts * matrix.columns();
  };
  WeightTotals totals = router_.totals();
  totals += {.bytes = 0,
             .expert_bytes = gate_up_->bytes() + down_->bytes(),
             .weights = settings_.mixture.chosen * (weights(*gate_up_) + weights(*down_))};
  return totals;
}

}  // namespace winnow
