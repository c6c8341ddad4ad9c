#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"

namespace winnow::cuda {

/// How much memory the current device has.
DeviceMemory FreeAndTotalMemory();

/// Memory of the current device.
class DeviceBuffer : public Buffer {
 public:
  /// Uninitialised memory. RESOURCE_EXHAUSTED says what was needed and what is free.
  static absl::StatusOr<std::unique_ptr<DeviceBuffer>> Create(int64_t bytes);
  ~DeviceBuffer() override;
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;

  std::byte* data() override { return data_; }
  int64_t bytes() const override { return bytes_; }

 private:
  DeviceBuffer(std::byte* data, int64_t bytes) : data_(data), bytes_(bytes) {}

  std::byte* data_;
  int64_t bytes_;
};

/// Page-locked host memory, which the device copies from and to at full speed, while others work.
class PinnedBuffer {
 public:
  static absl::StatusOr<std::unique_ptr<PinnedBuffer>> Create(int64_t bytes);
  ~PinnedBuffer();
  PinnedBuffer(const PinnedBuffer&) = delete;
  PinnedBuffer& operator=(const PinnedBuffer&) = delete;

  std::byte* data() { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  PinnedBuffer(std::byte* data, int64_t bytes) : data_(data), bytes_(bytes) {}

  std::byte* data_;
  int64_t bytes_;
};

}  // namespace winnow::cuda
