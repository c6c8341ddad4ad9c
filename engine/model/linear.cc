#include "engine/model/linear.h"

#include <utility>

namespace winnow {

absl::StatusOr<Linear> Linear::Load(const LinearSpec& spec, const WeightLoader& loader) {
  Linear linear;
  absl::StatusOr<std::unique_ptr<Matrix>> weights = loader.LoadMatrix(spec.weights);
  if (!weights.ok()) return weights.status();
  linear.weights_ = *std::move(weights);
  if (!spec.biases.empty()) {
    absl::StatusOr<DeviceFloats> bias = loader.LoadVector(spec.biases);
    if (!bias.ok()) return bias.status();
    linear.bias_ = *std::move(bias);
  }
  return linear;
}

void Linear::Run(Backend& backend, Tensor in, Tensor out) const {
  backend.MatMul(in, *weights_, bias_.data(), /*accumulate=*/false, out);
}

void Linear::AddTo(Backend& backend, Tensor in, Tensor sum) const {
  backend.MatMul(in, *weights_, bias_.data(), /*accumulate=*/true, sum);
}

WeightTotals Linear::totals() const {
  return {.bytes = weights_->bytes(), .weights = weights_->rows() * weights_->columns()};
}

}  // namespace winnow
