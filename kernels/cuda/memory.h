#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/cpu/host_buffer.h"

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

/// Much page-locked host memory, which kernels read and write at the addresses that the host has.
/// It is locked in pieces, for that takes seconds for some ten GB.
class MappedBuffer : public Buffer {
 public:
  /// Zeroed memory; calls `progress` with the bytes that are locked, after each piece.
  /// RESOURCE_EXHAUSTED says how far it came, UNIMPLEMENTED that the device wants other addresses.
  static absl::StatusOr<std::unique_ptr<MappedBuffer>> Create(
      int64_t bytes, absl::FunctionRef<void(int64_t done)> progress);
  ~MappedBuffer() override;
  MappedBuffer(const MappedBuffer&) = delete;
  MappedBuffer& operator=(const MappedBuffer&) = delete;

  std::byte* data() override { return memory_->data(); }
  int64_t bytes() const override { return memory_->bytes(); }

 private:
  explicit MappedBuffer(std::unique_ptr<cpu::HostBuffer> memory) : memory_(std::move(memory)) {}

  std::unique_ptr<cpu::HostBuffer> memory_;
  int64_t locked_ = 0;  ///< bytes, whole pieces but for the last
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
