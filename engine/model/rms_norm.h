#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "engine/model/device_floats.h"
#include "engine/model/weight_loader.h"
#include "kernels/backend.h"
#include "kernels/tensor.h"

namespace winnow {

/// Divides each row by the root of its mean square and multiplies it with weights, one a column.
class RmsNorm {
 public:
  /// Without weights: not to be run.
  RmsNorm() = default;

  /// The errors of WeightLoader. `epsilon` is added to the mean square.
  static absl::StatusOr<RmsNorm> Load(const std::string& name, float epsilon,
                                      const WeightLoader& loader);

  /// Backend::RmsNorm of `in`, fp32; `out` is of Backend::activation_type().
  void Run(Backend& backend, Tensor in, Tensor out) const;

  /// Backend::AddNormalized: adds the norm of `in` to `sum`, both fp32.
  void AddTo(Backend& backend, Tensor in, Tensor sum) const;

 private:
  DeviceFloats weights_;
  float epsilon_ = 0;
};

}  // namespace winnow
