#include "kernels/cuda/decode_attention.h"
#include "kernels/cuda/decode_kernels.h"

namespace winnow::cuda {
namespace {

constexpr int64_t kAlignment = 256;

int64_t Aligned(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// The counters, which must stay zero between calls, lie where no call of other sizes writes.
constexpr int64_t kArrivedBytes = int64_t{kMaxDecodeHeads} * sizeof(int32_t);

int64_t PartialBytes(int head_dim) {
  return Aligned(AttendPartialFloats(head_dim) * static_cast<int64_t>(sizeof(float)));
}

}  // namespace

const DeviceTraits& CurrentDeviceTraits() {
  static const DeviceTraits traits = [] {
    DeviceTraits read;
    int device = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&read.multiprocessors, cudaDevAttrMultiProcessorCount, device);
    cudaDeviceGetAttribute(&read.capability_major, cudaDevAttrComputeCapabilityMajor, device);
    return read;
  }();
  return traits;
}

int64_t DecodeWorkspaceBytes(int rows, int kv_heads, int head_dim, int max_context) {
  return kArrivedBytes + PartialBytes(head_dim) + SelectScratchBytes(rows, kv_heads, max_context);
}

DecodeScratch ScratchOf(const DecodeAttention& call) {
  std::byte* const partials = call.workspace + kArrivedBytes;
  std::byte* const keys = partials + PartialBytes(call.head_dim);
  return {.attend = {.arrived = reinterpret_cast<int32_t*>(call.workspace),
                     .partials = reinterpret_cast<float*>(partials)},
          .keys = reinterpret_cast<uint32_t*>(keys)};
}

cudaError_t LaunchDecodeAttention(const DecodeAttention& call, cudaStream_t stream) {
  const DecodeScratch scratch = ScratchOf(call);
  if (call.max_selected > 0) {
    const cudaError_t error = LaunchSelect(call, scratch.keys, stream);
    if (error != cudaSuccess) return error;
  }
  return LaunchAttend(call, scratch.attend, stream);
}

}  // namespace winnow::cuda
