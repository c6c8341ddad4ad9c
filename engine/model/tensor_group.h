#pragma once

#include <cstdint>
#include <initializer_list>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/model/safetensors.h"

namespace winnow {

/// Tensors by their names.
using SafetensorsMap = std::map<std::string, SafetensorsTensor, std::less<>>;

/// The tensors that store one quantised matrix: their names begin alike, with the module's, and end
/// in what each is.
class TensorGroup {
 public:
  static constexpr int64_t kAny = -1;  ///< in a shape

  /// The tensors of `module`, "model.layers.0.mlp.up_proj"; `folder` stands in messages. REQUIRES:
  /// `tensors` outlives this.
  TensorGroup(std::string folder, std::string module, const SafetensorsMap& tensors)
      : folder_(std::move(folder)), module_(std::move(module)), tensors_(tensors) {}

  /// The tensor whose name ends in `end`, or null. It counts as read.
  const SafetensorsTensor* Find(std::string_view end);

  /// The same of a tensor that must be there, not empty, of one of `types` and of that shape;
  /// otherwise INVALID_ARGUMENT.
  absl::StatusOr<const SafetensorsTensor*> Get(std::string_view end,
                                               std::initializer_list<std::string_view> types,
                                               const std::vector<int64_t>& shape);

  /// INVALID_ARGUMENT that names the tensor.
  absl::Status Invalid(std::string_view end, std::string_view message) const;

  /// The names of what was read.
  const std::set<std::string>& read() const { return read_; }

 private:
  const std::string folder_;
  const std::string module_;
  const SafetensorsMap& tensors_;
  std::set<std::string> read_;
};

}  // namespace winnow
