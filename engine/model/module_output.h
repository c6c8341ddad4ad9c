#pragma once

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "engine/model/linear.h"
#include "engine/model/model_spec.h"
#include "engine/model/rms_norm.h"
#include "engine/model/step_context.h"
#include "engine/model/weight_loader.h"
#include "kernels/tensor.h"

namespace winnow {

/// How a module ends: its last product, and in families that have it a norm of that, is added to
/// the residual stream.
class ModuleOutput {
 public:
  /// Without weights: not to be run.
  ModuleOutput() = default;

  /// Without a norm if `norm` is empty. The errors of WeightLoader.
  static absl::StatusOr<ModuleOutput> Load(const LinearSpec& product, const std::string& norm,
                                           float epsilon, const WeightLoader& loader);

  /// x += norm(in Wᵀ + b), or x += in Wᵀ + b. `in` is of Backend::activation_type(), `x` fp32.
  void AddTo(const StepContext& context, Tensor in, Tensor x) const;

  /// Those of the product.
  WeightTotals totals() const { return product_.totals(); }

 private:
  Linear product_;
  std::optional<RmsNorm> norm_;
};

}  // namespace winnow
