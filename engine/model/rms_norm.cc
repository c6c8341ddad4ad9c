#include "engine/model/rms_norm.h"

#include <span>
#include <utility>

namespace winnow {

absl::StatusOr<RmsNorm> RmsNorm::Load(const std::string& name, float epsilon,
                                      const WeightLoader& loader) {
  absl::StatusOr<DeviceFloats> weights = loader.LoadVector(std::span(&name, 1));
  if (!weights.ok()) return weights.status();
  RmsNorm norm;
  norm.weights_ = *std::move(weights);
  norm.epsilon_ = epsilon;
  return norm;
}

void RmsNorm::Run(Backend& backend, Tensor in, Tensor out) const {
  backend.RmsNorm(in, weights_.data(), epsilon_, out);
}

void RmsNorm::AddTo(Backend& backend, Tensor in, Tensor sum) const {
  backend.AddNormalized(in, weights_.data(), epsilon_, sum);
}

}  // namespace winnow
