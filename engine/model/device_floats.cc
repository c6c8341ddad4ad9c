#include "engine/model/device_floats.h"

#include <cstddef>
#include <cstdint>
#include <utility>

namespace winnow {

absl::StatusOr<DeviceFloats> DeviceFloats::Upload(std::span<const float> values, Backend& backend) {
  const auto bytes = static_cast<int64_t>(values.size_bytes());
  absl::StatusOr<std::unique_ptr<Buffer>> buffer = backend.Allocate(bytes);
  if (!buffer.ok()) return buffer.status();
  backend.Copy((*buffer)->data(), reinterpret_cast<const std::byte*>(values.data()), bytes);
  DeviceFloats floats;
  floats.buffer_ = *std::move(buffer);
  return floats;
}

const float* DeviceFloats::data() const {
  return buffer_ == nullptr ? nullptr : reinterpret_cast<const float*>(buffer_->data());
}

}  // namespace winnow
