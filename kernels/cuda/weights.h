#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/cuda/memory.h"

namespace winnow::cuda {

/// A weight matrix in device memory: bf16 [rows, columns].
class DeviceMatrix : public Matrix {
 public:
  /// Dequantises the parts, stacked along their rows, in the pool's threads and rounds them to
  /// bf16, by way of `staging`, which the stream's copies are done with when it returns.
  /// INVALID_ARGUMENT when their columns differ, RESOURCE_EXHAUSTED when memory is short.
  static absl::StatusOr<std::unique_ptr<DeviceMatrix>> Load(std::span<const HostMatrix> parts,
                                                            cpu::ThreadPool& pool,
                                                            PinnedBuffer& staging,
                                                            cudaStream_t stream);

  int64_t rows() const override { return rows_; }
  int64_t columns() const override { return columns_; }
  int64_t bytes() const override { return rows_ * columns_ * int64_t{2}; }
  const std::byte* data() const { return memory_->data(); }

 private:
  DeviceMatrix(std::unique_ptr<DeviceBuffer> memory, int64_t rows, int64_t columns)
      : memory_(std::move(memory)), rows_(rows), columns_(columns) {}

  std::unique_ptr<DeviceBuffer> memory_;
  int64_t rows_;
  int64_t columns_;
};

}  // namespace winnow::cuda
