#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/statusor.h"
#include "kernels/backend.h"

namespace winnow::cpu {

/// Zeroed pages that become resident when they are first written. A large buffer begins at a huge
/// page, so that all of it can lie in such pages: rows of activations are far apart, and without
/// them most accesses to a row miss the processor's table of addresses.
class HostBuffer : public Buffer {
 public:
  /// RESOURCE_EXHAUSTED when the system has no more.
  static absl::StatusOr<std::unique_ptr<HostBuffer>> Create(int64_t bytes);

  ~HostBuffer() override;
  HostBuffer(const HostBuffer&) = delete;
  HostBuffer& operator=(const HostBuffer&) = delete;

  std::byte* data() override { return data_; }
  int64_t bytes() const override { return bytes_; }

 private:
  HostBuffer(std::span<std::byte> mapping, std::byte* data, int64_t bytes)
      : mapping_(mapping), data_(data), bytes_(bytes) {}

  const std::span<std::byte> mapping_;
  std::byte* const data_;
  const int64_t bytes_;
};

}  // namespace winnow::cpu
