#include "kernels/cuda/memory.h"

#include <cuda_runtime_api.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/status.h"

namespace winnow::cuda {
namespace {

constexpr int64_t kPieceBytes = int64_t{1} << 30;

}  // namespace

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

absl::StatusOr<std::unique_ptr<MappedBuffer>> MappedBuffer::Create(
    int64_t bytes, absl::FunctionRef<void(int64_t)> progress) {
  int device = 0;
  int same_addresses = 0;
  absl::Status status = CudaStatus(cudaGetDevice(&device), "cudaGetDevice");
  if (!status.ok()) return status;
  status = CudaStatus(
      cudaDeviceGetAttribute(&same_addresses, cudaDevAttrCanUseHostPointerForRegisteredMem, device),
      "cudaDeviceGetAttribute");
  if (!status.ok()) return status;
  if (same_addresses == 0) {
    return absl::UnimplementedError("the device can't use the addresses of host memory");
  }
  absl::StatusOr<std::unique_ptr<cpu::HostBuffer>> memory = cpu::HostBuffer::Create(bytes);
  if (!memory.ok()) return memory.status();
  std::unique_ptr<MappedBuffer> buffer(new MappedBuffer(*std::move(memory)));
  while (buffer->locked_ < bytes) {
    const int64_t piece = std::min(kPieceBytes, bytes - buffer->locked_);
    const cudaError_t error = cudaHostRegister(buffer->data() + buffer->locked_,
                                               static_cast<size_t>(piece), cudaHostRegisterDefault);
    if (error == cudaErrorMemoryAllocation || error == cudaErrorOperatingSystem) {
      cudaGetLastError();  // not sticky: forget it
      return absl::ResourceExhaustedError(absl::StrCat("the system locks ", buffer->locked_,
                                                       " bytes of memory, not the ", bytes,
                                                       " that are needed"));
    }
    status = CudaStatus(error, "cudaHostRegister");
    if (!status.ok()) return status;
    buffer->locked_ += piece;
    progress(buffer->locked_);
  }
  return buffer;
}

MappedBuffer::~MappedBuffer() {
  for (int64_t begin = 0; begin < locked_; begin += kPieceBytes) {
    cudaHostUnregister(data() + begin);
  }
}

absl::StatusOr<std::unique_ptr<PinnedBuffer>> PinnedBuffer::Create(int64_t bytes) {
  void* data = nullptr;
  const absl::Status status =
      CudaStatus(cudaMallocHost(&data, static_cast<size_t>(bytes)), "cudaMallocHost");
  if (!status.ok()) return status;
  return std::unique_ptr<PinnedBuffer>(new PinnedBuffer(static_cast<std::byte*>(data), bytes));
}

PinnedBuffer::~PinnedBuffer() { cudaFreeHost(data_); }

}  // namespace winnow::cuda
