#pragma once

#include <string_view>

#include "kernels/backend.h"

namespace winnow {

/// Where a model's weights come from, by their names in GGUF files.
class WeightSource {
 public:
  virtual ~WeightSource() = default;

  /// A matrix as it is stored, or a vector as one row. Lives as long as the source.
  /// REQUIRES: the model has a weight of that name (see ModelSpec).
  virtual HostMatrix Weight(std::string_view name) const = 0;

  /// Tells the source that the weights are not needed for now.
  virtual void ReleasePages() const = 0;
};

}  // namespace winnow
