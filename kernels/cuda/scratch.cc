#include "kernels/cuda/scratch.h"

#include <utility>

#include "absl/status/status.h"
#include "kernels/cuda/status.h"

namespace winnow::cuda {

absl::StatusOr<std::byte*> Scratch::Take(int64_t bytes, cudaStream_t stream) {
  if (memory_ != nullptr && memory_->bytes() >= bytes) return memory_->data();
  memory_.reset();  // waits for what still uses it
  absl::StatusOr<std::unique_ptr<DeviceBuffer>> memory = DeviceBuffer::Create(bytes);
  if (!memory.ok()) return memory.status();
  memory_ = *std::move(memory);
  ++moved_;
  const absl::Status status =
      CudaStatus(cudaMemsetAsync(memory_->data(), 0, static_cast<size_t>(memory_->bytes()), stream),
                 "cudaMemsetAsync");
  if (!status.ok()) return status;
  return memory_->data();
}

}  // namespace winnow::cuda
