#include "kernels/cuda/memory.h"

#include <cuda_runtime_api.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/status.h"

namespace winnow::cuda {

DeviceMemory FreeAndTotalMemory() {
  size_t free = 0;
  size_t total = 0;
  cudaMemGetInfo(&free, &total);  // an error leaves nothing free
  return {.total = static_cast<int64_t>(total), .free = static_cast<int64_t>(free)};
}

absl::StatusOr<std::unique_ptr<DeviceBuffer>> DeviceBuffer::Create(int64_t bytes) {
  void* data = nullptr;
  const int64_t size = std::max<int64_t>(bytes, 1);
  const cudaError_t error = cudaMalloc(&data, static_cast<size_t>(size));
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // not sticky: forget it
    const DeviceMemory memory = FreeAndTotalMemory();
    return absl::ResourceExhaustedError(absl::StrCat("cudaMalloc: ", bytes, " bytes are needed, ",
                                                     memory.free, " of the device's ", memory.total,
                                                     " are free"));
  }
  if (absl::Status status = CudaStatus(error, "cudaMalloc"); !status.ok()) return status;
  return std::unique_ptr<DeviceBuffer>(new DeviceBuffer(static_cast<std::byte*>(data), size));
}

DeviceBuffer::~DeviceBuffer() { cudaFree(data_); }

absl::StatusOr<std::unique_ptr<PinnedBuffer>> PinnedBuffer::Create(int64_t bytes) {
  void* data = nullptr;
  const absl::Status status =
      CudaStatus(cudaMallocHost(&data, static_cast<size_t>(bytes)), "cudaMallocHost");
  if (!status.ok()) return status;
  return std::unique_ptr<PinnedBuffer>(new PinnedBuffer(static_cast<std::byte*>(data), bytes));
}

PinnedBuffer::~PinnedBuffer() { cudaFreeHost(data_); }

}  // namespace winnow::cuda
