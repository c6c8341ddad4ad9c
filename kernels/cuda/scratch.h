#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/cuda/memory.h"

namespace winnow::cuda {

/// Device memory of one use, kept from step to step. It is taken once for the largest step
/// (Backend::Reserve), and grows where nobody did that.
class Scratch {
 public:
  /// At least so many bytes, zeroed on the stream when they are new, which loses what was there.
  absl::StatusOr<std::byte*> Take(int64_t bytes, cudaStream_t stream);

  /// Counts how often the memory has moved.
  int moved() const { return moved_; }

 private:
  std::unique_ptr<DeviceBuffer> memory_;
  int moved_ = 0;
};

}  // namespace winnow::cuda
