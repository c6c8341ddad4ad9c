#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kernels/backend.h"
#include "kernels/data_type.h"

namespace winnow {

/// A weight in host memory: the source's, or its own where the source had to make it from what its
/// files hold.
struct HostWeight {
  HostWeight(const HostMatrix& stored) : matrix(stored) {}  // NOLINT: whoever has one has a weight
  /// REQUIRES: `made.data` points into `owned`.
  HostWeight(const HostMatrix& made, std::unique_ptr<std::byte[]> owned)
      : matrix(made), memory(std::move(owned)) {}

  HostMatrix matrix;
  std::unique_ptr<std::byte[]> memory;  ///< null: the data lives as long as the source
};

/// What is known of a weight without reading it.
struct WeightInfo {
  std::string name;  ///< in GGUF files
  DataType type = DataType::kF32;
  std::vector<int64_t> shape;  ///< outermost first, 1 to 4 entries
  int64_t bytes = 0;
};

/// Where a model's weights come from, by their names in GGUF files.
class WeightSource {
 public:
  virtual ~WeightSource() = default;

  /// A matrix, a vector as one row, or a stack of matrices (experts) as one below the other. The
  /// embedding table's data is always the source's.
  /// REQUIRES: the model has a weight of that name (see ModelSpec).
  virtual HostWeight Weight(std::string_view name) const = 0;

  /// Tells the source that the weights are not needed for now.
  virtual void ReleasePages() const = 0;
};

}  // namespace winnow
