#pragma once

#include <memory>
#include <span>

#include "absl/status/statusor.h"
#include "kernels/backend.h"

namespace winnow {

/// Numbers in device memory, which operators take by a pointer to the first: a norm's weights, a
/// bias, frequencies. None at first.
class DeviceFloats {
 public:
  /// A copy of `values`. The errors of Backend::Allocate.
  static absl::StatusOr<DeviceFloats> Upload(std::span<const float> values, Backend& backend);

  /// The first number, which stays where it is when this object is moved; null when there are none.
  const float* data() const;

 private:
  std::unique_ptr<Buffer> buffer_;
};

}  // namespace winnow
