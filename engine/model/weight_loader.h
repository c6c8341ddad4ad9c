#pragma once

#include <memory>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "engine/model/device_floats.h"
#include "engine/model/weight_source.h"
#include "kernels/backend.h"

namespace winnow {

/// Brings weights to a backend by their names. Errors are the backend's and name the tensor, the
/// first where there are several.
class WeightLoader {
 public:
  /// REQUIRES: both outlive this object, and the memory of weights that are not their own what is
  /// loaded.
  WeightLoader(const WeightSource& source, Backend& backend) : source_(source), backend_(backend) {}

  /// The matrices, stacked along their rows.
  absl::StatusOr<std::unique_ptr<Matrix>> LoadMatrix(std::span<const std::string> names) const;

  /// The matrices of `experts` experts, below one another: of each its part of every tensor named,
  /// which are stacks of as many.
  absl::StatusOr<std::unique_ptr<Matrix>> LoadExperts(std::span<const std::string> names,
                                                      int experts) const;

  /// The vectors, one after another, widened to fp32.
  absl::StatusOr<DeviceFloats> LoadVector(std::span<const std::string> names) const;

  /// A table to look rows up in.
  absl::StatusOr<std::unique_ptr<Matrix>> LoadEmbedding(const std::string& name) const;

 private:
  const WeightSource& source_;
  Backend& backend_;
};

}  // namespace winnow
