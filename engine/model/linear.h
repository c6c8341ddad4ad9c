#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "engine/model/device_floats.h"
#include "engine/model/model_spec.h"
#include "engine/model/weight_loader.h"
#include "kernels/backend.h"
#include "kernels/tensor.h"

namespace winnow {

/// How large the matrices of a module are.
struct WeightTotals {
  int64_t bytes = 0;         ///< that one step reads, whatever its batch
  int64_t expert_bytes = 0;  ///< of all experts: a step reads those that its rows have chosen
  int64_t weights = 0;       ///< that every token is multiplied with

  WeightTotals& operator+=(const WeightTotals& other) {
    bytes += other.bytes;
    expert_bytes += other.expert_bytes;
    weights += other.weights;
    return *this;
  }
};

/// A product with a weight matrix W [outputs, inputs] of any type, and a bias b [outputs] or none.
class Linear {
 public:
  /// Without weights: not to be run.
  Linear() = default;

  /// The errors of WeightLoader.
  static absl::StatusOr<Linear> Load(const LinearSpec& spec, const WeightLoader& loader);

  /// out [rows, outputs] = in [rows, inputs] Wᵀ + b. `in` is of Backend::activation_type(), `out`
  /// of that or fp32.
  void Run(Backend& backend, Tensor in, Tensor out) const;

  /// The same, added to what `sum` holds; fp32.
  void AddTo(Backend& backend, Tensor in, Tensor sum) const;

  WeightTotals totals() const;

 private:
  std::unique_ptr<Matrix> weights_;
  DeviceFloats bias_;
};

}  // namespace winnow
