#include "engine/model/module_output.h"

#include <utility>

namespace winnow {

absl::StatusOr<ModuleOutput> ModuleOutput::Load(const LinearSpec& product, const std::string& norm,
                                                float epsilon, const WeightLoader& loader) {
  ModuleOutput output;
  absl::StatusOr<Linear> linear = Linear::Load(product, loader);
  if (!linear.ok()) return linear.status();
  output.product_ = *std::move(linear);
  if (!norm.empty()) {
    absl::StatusOr<RmsNorm> behind = RmsNorm::Load(norm, epsilon, loader);
    if (!behind.ok()) return behind.status();
    output.norm_ = *std::move(behind);
  }
  return output;
}

void ModuleOutput::AddTo(const StepContext& context, Tensor in, Tensor x) const {
  if (!norm_) return product_.AddTo(context.backend, in, x);
  product_.Run(context.backend, in, context.activations.branch);
  norm_->AddTo(context.backend, context.activations.branch, x);
}

}  // namespace winnow
