#pragma once

#include <cuda.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"

namespace winnow::cuda {

/// Memory of which some lies on the device and some on the host.
enum class MemoryTier : uint8_t { kDevice, kHost };

/// A part of a TieredRange.
struct TierPart {
  MemoryTier tier = MemoryTier::kDevice;
  int64_t bytes = 0;  ///< a multiple of TieredRange::PartBytes
};

/// One range of addresses whose parts lie in different memories: kernels read and write all of it
/// alike, page-locked host memory over the link (some 50 GB/s by PCIe 5), and the host reaches what
/// is its own. So a block of KV may lie in either tier without anybody's arithmetic knowing.
class TieredRange {
 public:
  /// Sizes of parts are multiples of this, the granularity that the driver maps by. UNIMPLEMENTED
  /// where the driver has no such ranges.
  static absl::StatusOr<int64_t> PartBytes();

  /// Zeroed memory, part after part. Host memory is taken in pieces, for locking some ten GB takes
  /// seconds: `progress` gets the bytes of it that there are. RESOURCE_EXHAUSTED says which tier
  /// had too little.
  static absl::StatusOr<std::unique_ptr<TieredRange>> Create(
      const std::vector<TierPart>& parts, absl::FunctionRef<void(int64_t host_bytes)> progress);
  ~TieredRange();
  TieredRange(const TieredRange&) = delete;
  TieredRange& operator=(const TieredRange&) = delete;

  std::byte* data() const { return reinterpret_cast<std::byte*>(base_); }
  int64_t bytes() const { return bytes_; }

 private:
  TieredRange() = default;
  absl::Status Map(const TierPart& part, int64_t bytes);

  CUdeviceptr base_ = 0;
  int64_t bytes_ = 0;   ///< of addresses
  int64_t mapped_ = 0;  ///< of them with memory behind
};

}  // namespace winnow::cuda
