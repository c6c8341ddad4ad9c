#include <cuda_bf16.h>

#include "kernels/cuda/decode_kernels.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/math.cuh"
#include "kernels/cuda/norms.h"

namespace winnow::cuda {
namespace {

using bf16 = __nv_bfloat16;

// A row's norm: one block a row, so that few rows still have many loads in flight.
constexpr int kThreads = 512;

__device__ float BlockSum(float value) {
  __shared__ float of_warps[kThreads / 32];
  value = WarpSum(value);
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = value;
  __syncthreads();
  float sum = 0;
  for (int warp = 0; warp < kThreads / 32; ++warp) sum += of_warps[warp];
  return sum;
}

template <typename Out>
struct Norm {
  const float* x;
  int64_t x_stride;
  const float* weight;
  float epsilon;
  int columns;
  Out* out;
  int64_t out_stride;
};

// bf16 results are written, fp32 ones added to what is there.
__device__ void Put(float value, bf16* out) { *out = __float2bfloat16_rn(value); }
__device__ void Put(float value, float* out) { *out += value; }

__device__ void Put(const float4& v, bf16* out) {
  const __nv_bfloat162 low = __floats2bfloat162_rn(v.x, v.y);
  const __nv_bfloat162 high = __floats2bfloat162_rn(v.z, v.w);
  *reinterpret_cast<uint2*>(out) = {reinterpret_cast<const uint32_t&>(low),
                                    reinterpret_cast<const uint32_t&>(high)};
}
__device__ void Put(const float4& v, float* out) {
  auto& sum = *reinterpret_cast<float4*>(out);
  sum = {sum.x + v.x, sum.y + v.y, sum.z + v.z, sum.w + v.w};
}

template <typename Out>
__global__ void __launch_bounds__(kThreads) NormalizeRows(const __grid_constant__ Norm<Out> call) {
  LetNextKernelStart();
  const float* row = call.x + blockIdx.x * call.x_stride;
  Out* to = call.out + blockIdx.x * call.out_stride;
  WaitForPreviousKernel();
  float squares = 0;
  for (int c = threadIdx.x; c < call.columns; c += kThreads) squares += row[c] * row[c];
  const float scale = rsqrtf(BlockSum(squares) / static_cast<float>(call.columns) + call.epsilon);
  for (int c = threadIdx.x; c < call.columns; c += kThreads) {
    Put(row[c] * scale * call.weight[c], to + c);
  }
}

// The same for rows of whole float4 that a block's registers hold, read once.
constexpr int kVectors = 4;  // of a thread

template <typename Out>
__global__ void __launch_bounds__(kThreads)
    NormalizeVectors(const __grid_constant__ Norm<Out> call) {
  LetNextKernelStart();
  const auto* row = reinterpret_cast<const float4*>(call.x + blockIdx.x * call.x_stride);
  const auto* weight = reinterpret_cast<const float4*>(call.weight);
  Out* to = call.out + blockIdx.x * call.out_stride;
  float4 weights[kVectors];
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int at = threadIdx.x + i * kThreads;
    if (at * 4 < call.columns) weights[i] = weight[at];
  }
  WaitForPreviousKernel();
  float4 values[kVectors];
  float squares = 0;
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int at = threadIdx.x + i * kThreads;
    if (at * 4 >= call.columns) break;
    const float4 v = row[at];
    values[i] = v;
    squares += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
  }
  const float scale = rsqrtf(BlockSum(squares) / static_cast<float>(call.columns) + call.epsilon);
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int at = threadIdx.x + i * kThreads;
    if (at * 4 >= call.columns) break;
    const float4 v = values[i];
    const float4 w = weights[i];
    Put(float4{v.x * scale * w.x, v.y * scale * w.y, v.z * scale * w.z, v.w * scale * w.w},
        to + 4 * at);
  }
}

// Of queries and keys: a warp a head.
constexpr int kHeadWarps = 8;
constexpr int kHeadVectors = 2;  // of a lane

struct HeadsCall : HeadNorms {
  int pieces;  ///< of a row, each a block
};

__global__ void __launch_bounds__(32 * kHeadWarps)
    NormalizeHeads(const __grid_constant__ HeadsCall call) {
  LetNextKernelStart();
  const int lane = threadIdx.x % 32;
  const int row = blockIdx.x / call.pieces;
  const int head = blockIdx.x % call.pieces * kHeadWarps + threadIdx.x / 32;
  if (head >= call.heads + call.kv_heads) return;
  const auto* weight =
      reinterpret_cast<const float4*>(head < call.heads ? call.query_weight : call.key_weight);
  auto* values = reinterpret_cast<float4*>(static_cast<float*>(call.qkv.data) +
                                           row * call.qkv.stride + head * call.head_dim);
  float4 w[kHeadVectors];
#pragma unroll
  for (int i = 0; i < kHeadVectors; ++i) {
    const int at = lane + 32 * i;
    if (at * 4 < call.head_dim) w[i] = weight[at];
  }
  WaitForPreviousKernel();
  float4 v[kHeadVectors];
  float squares = 0;
#pragma unroll
  for (int i = 0; i < kHeadVectors; ++i) {
    const int at = lane + 32 * i;
    if (at * 4 >= call.head_dim) break;
    v[i] = values[at];
    squares += v[i].x * v[i].x + v[i].y * v[i].y + v[i].z * v[i].z + v[i].w * v[i].w;
  }
  const float scale = rsqrtf(WarpSum(squares) / static_cast<float>(call.head_dim) + call.epsilon);
#pragma unroll
  for (int i = 0; i < kHeadVectors; ++i) {
    const int at = lane + 32 * i;
    if (at * 4 >= call.head_dim) break;
    values[at] = {v[i].x * scale * w[i].x, v[i].y * scale * w[i].y, v[i].z * scale * w[i].z,
                  v[i].w * scale * w[i].w};
  }
}

template <typename Out>
cudaError_t LaunchNorm(const Tensor& x, const float* weight, float epsilon, const Tensor& out,
                       cudaStream_t stream) {
  const Norm<Out> call{
      static_cast<const float*>(x.data), x.stride,  weight, epsilon, static_cast<int>(x.columns),
      static_cast<Out*>(out.data),       out.stride};
  const bool vectors = x.columns <= 4 * kVectors * kThreads && x.columns % 4 == 0 &&
                       x.stride % 4 == 0 && out.stride % 4 == 0;
  return LaunchEarly(vectors ? NormalizeVectors<Out> : NormalizeRows<Out>,
                     {.blocks = static_cast<int>(x.rows), .threads = kThreads},
                     CurrentDeviceTraits().capability_major, stream, call);
}

}  // namespace

cudaError_t LaunchRmsNorm(const Tensor& x, const float* weight, float epsilon, const Tensor& out,
                          cudaStream_t stream) {
  return LaunchNorm<bf16>(x, weight, epsilon, out, stream);
}

cudaError_t LaunchAddNormalized(const Tensor& x, const float* weight, float epsilon,
                                const Tensor& sum, cudaStream_t stream) {
  return LaunchNorm<float>(x, weight, epsilon, sum, stream);
}

cudaError_t LaunchNormalizeHeads(const HeadNorms& call, cudaStream_t stream) {
  const int pieces = (call.heads + call.kv_heads + kHeadWarps - 1) / kHeadWarps;
  return LaunchEarly(
      NormalizeHeads,
      {.blocks = static_cast<int>(call.qkv.rows) * pieces, .threads = 32 * kHeadWarps},
      CurrentDeviceTraits().capability_major, stream, HeadsCall{call, pieces});
}

}  // namespace winnow::cuda
