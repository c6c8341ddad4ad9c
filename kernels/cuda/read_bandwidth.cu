#include "kernels/cuda/read_bandwidth.h"

namespace winnow::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kBlocks = 1056;  // several for each multiprocessor
constexpr int kLoads = 8;      // of a thread in flight

__global__ void __launch_bounds__(kThreads) Read(const float4* data, int64_t count, float* sink) {
  const int64_t stride = int64_t{kThreads} * kBlocks;
  float sum = 0;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += stride * kLoads) {
    float4 values[kLoads] = {};
#pragma unroll
    for (int load = 0; load < kLoads; ++load) {
      if (i + load * stride < count) values[load] = __ldcs(data + i + load * stride);
    }
#pragma unroll
    for (int load = 0; load < kLoads; ++load) {
      sum += values[load].x + values[load].y + values[load].z + values[load].w;
    }
  }
  if (sum == 0.5f) *sink = sum;  // never, but the compiler cannot know
}

}  // namespace

cudaError_t LaunchRead(const void* data, int64_t bytes, float* sink, cudaStream_t stream) {
  Read<<<kBlocks, kThreads, 0, stream>>>(static_cast<const float4*>(data), bytes / 16, sink);
  return cudaGetLastError();
}

}  // namespace winnow::cuda
