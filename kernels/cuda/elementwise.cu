#include <cuda_bf16.h>

#include "kernels/cuda/decode_kernels.h"
#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/launch.cuh"

namespace winnow::cuda {
namespace {

using bf16 = __nv_bfloat16;

constexpr int kThreads = 256;
// A row's norm: one block a row, so that few rows still have many loads in flight.
constexpr int kNormThreads = 512;
constexpr unsigned kFullWarp = 0xffffffff;

__global__ void Embed(const bf16* table, const int32_t* tokens, int columns, float* out,
                      int64_t stride) {
  const bf16* row = table + int64_t{tokens[blockIdx.x]} * columns;
  float* to = out + blockIdx.x * stride;
  for (int c = threadIdx.x; c < columns; c += kThreads) to[c] = __bfloat162float(row[c]);
}

__device__ float BlockSum(float value) {
  __shared__ float of_warps[kNormThreads / 32];
  for (int lane = 16; lane > 0; lane /= 2) value += __shfl_xor_sync(kFullWarp, value, lane);
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = value;
  __syncthreads();
  float sum = 0;
  for (int warp = 0; warp < kNormThreads / 32; ++warp) sum += of_warps[warp];
  return sum;
}

struct Norm {
  const float* x;
  int64_t x_stride;
  const float* weight;
  float epsilon;
  int columns;
  bf16* out;
  int64_t out_stride;
};

__global__ void __launch_bounds__(kNormThreads) RmsNorm(const __grid_constant__ Norm call) {
  LetNextKernelStart();
  const float* row = call.x + blockIdx.x * call.x_stride;
  bf16* to = call.out + blockIdx.x * call.out_stride;
  WaitForPreviousKernel();
  float squares = 0;
  for (int c = threadIdx.x; c < call.columns; c += kNormThreads) squares += row[c] * row[c];
  const float scale = rsqrtf(BlockSum(squares) / static_cast<float>(call.columns) + call.epsilon);
  for (int c = threadIdx.x; c < call.columns; c += kNormThreads) {
    to[c] = __float2bfloat16_rn(row[c] * scale * call.weight[c]);
  }
}

// The same for rows of whole float4 that a block's registers hold, read once.
constexpr int kNormVectors = 4;  // of a thread

__global__ void __launch_bounds__(kNormThreads) RmsNormVectors(const __grid_constant__ Norm call) {
  LetNextKernelStart();
  const auto* row = reinterpret_cast<const float4*>(call.x + blockIdx.x * call.x_stride);
  const auto* weight = reinterpret_cast<const float4*>(call.weight);
  auto* to = reinterpret_cast<uint2*>(call.out + blockIdx.x * call.out_stride);
  float4 weights[kNormVectors];
#pragma unroll
  for (int i = 0; i < kNormVectors; ++i) {
    const int at = threadIdx.x + i * kNormThreads;
    if (at * 4 < call.columns) weights[i] = weight[at];
  }
  WaitForPreviousKernel();
  float4 values[kNormVectors];
  float squares = 0;
#pragma unroll
  for (int i = 0; i < kNormVectors; ++i) {
    const int at = threadIdx.x + i * kNormThreads;
    if (at * 4 >= call.columns) break;
    const float4 v = row[at];
    values[i] = v;
    squares += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
  }
  const float scale = rsqrtf(BlockSum(squares) / static_cast<float>(call.columns) + call.epsilon);
#pragma unroll
  for (int i = 0; i < kNormVectors; ++i) {
    const int at = threadIdx.x + i * kNormThreads;
    if (at * 4 >= call.columns) break;
    const float4 v = values[i];
    const float4 w = weights[i];
    const __nv_bfloat162 low = __floats2bfloat162_rn(v.x * scale * w.x, v.y * scale * w.y);
    const __nv_bfloat162 high = __floats2bfloat162_rn(v.z * scale * w.z, v.w * scale * w.w);
    to[at] = {reinterpret_cast<const uint32_t&>(low), reinterpret_cast<const uint32_t&>(high)};
  }
}

struct Activation {
  const bf16* gate_up;
  int64_t gate_stride;
  int columns;
  bf16* out;
  int64_t out_stride;
  int pieces;  // of a row, each a block
};

__device__ float Silu(float x) { return x / (1 + __expf(-x)); }

__global__ void SwiGlu(const __grid_constant__ Activation call) {
  LetNextKernelStart();
  WaitForPreviousKernel();
  const int row = blockIdx.x / call.pieces;
  const int c = blockIdx.x % call.pieces * kThreads + threadIdx.x;
  if (c >= call.columns) return;
  const bf16* gate = call.gate_up + row * call.gate_stride + c;
  call.out[row * call.out_stride + c] =
      __float2bfloat16_rn(Silu(__bfloat162float(*gate)) * __bfloat162float(gate[call.columns]));
}

// Eight columns a thread.
__global__ void SwiGluVectors(const __grid_constant__ Activation call) {
  LetNextKernelStart();
  WaitForPreviousKernel();
  const int row = blockIdx.x / call.pieces;
  const int c = 8 * (blockIdx.x % call.pieces * kThreads + threadIdx.x);
  if (c >= call.columns) return;
  const bf16* from = call.gate_up + row * call.gate_stride + c;
  const uint4 gates = *reinterpret_cast<const uint4*>(from);
  const uint4 ups = *reinterpret_cast<const uint4*>(from + call.columns);
  uint4 products;
  const auto* gate = reinterpret_cast<const __nv_bfloat162*>(&gates);
  const auto* up = reinterpret_cast<const __nv_bfloat162*>(&ups);
  auto* product = reinterpret_cast<__nv_bfloat162*>(&products);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 g = __bfloat1622float2(gate[i]);
    const float2 u = __bfloat1622float2(up[i]);
    product[i] = __floats2bfloat162_rn(Silu(g.x) * u.x, Silu(g.y) * u.y);
  }
  *reinterpret_cast<uint4*>(call.out + row * call.out_stride + c) = products;
}

__global__ void GatherRows(const float* x, int64_t x_stride, const int32_t* rows, int columns,
                           float* out, int64_t out_stride) {
  const float* row = x + rows[blockIdx.x] * x_stride;
  float* to = out + blockIdx.x * out_stride;
  for (int c = threadIdx.x; c < columns; c += kThreads) to[c] = row[c];
}

__global__ void AddBias(const float* bias, int columns, float* out, int64_t stride) {
  const int c = blockIdx.y * kThreads + threadIdx.x;
  if (c < columns) out[blockIdx.x * stride + c] += bias[c];
}

template <typename T>
T* As(const Tensor& tensor) {
  return static_cast<T*>(tensor.data);
}

}  // namespace

cudaError_t LaunchEmbed(const void* table, const int32_t* tokens, const Tensor& out,
                        cudaStream_t stream) {
  Embed<<<out.rows, kThreads, 0, stream>>>(static_cast<const bf16*>(table), tokens,
                                           static_cast<int>(out.columns), As<float>(out),
                                           out.stride);
  return cudaGetLastError();
}

cudaError_t LaunchRmsNorm(const Tensor& x, const float* weight, float epsilon, const Tensor& out,
                          cudaStream_t stream) {
  const Norm call{As<const float>(x),          x.stride,      weight,    epsilon,
                  static_cast<int>(x.columns), As<bf16>(out), out.stride};
  const bool vectors = x.columns <= 4 * kNormVectors * kNormThreads && x.columns % 4 == 0 &&
                       x.stride % 4 == 0 && out.stride % 4 == 0;
  return LaunchEarly(vectors ? RmsNormVectors : RmsNorm,
                     {.blocks = static_cast<int>(x.rows), .threads = kNormThreads},
                     CurrentDeviceTraits().capability_major, stream, call);
}

cudaError_t LaunchSwiGlu(const Tensor& gate_up, const Tensor& out, cudaStream_t stream) {
  const bool vectors = out.columns % 8 == 0 && gate_up.stride % 8 == 0 && out.stride % 8 == 0;
  const int piece = kThreads * (vectors ? 8 : 1);
  const Activation call{
      As<const bf16>(gate_up), gate_up.stride, static_cast<int>(out.columns),
      As<bf16>(out),           out.stride,     static_cast<int>((out.columns + piece - 1) / piece)};
  return LaunchEarly(vectors ? SwiGluVectors : SwiGlu,
                     {.blocks = static_cast<int>(out.rows) * call.pieces, .threads = kThreads},
                     CurrentDeviceTraits().capability_major, stream, call);
}

cudaError_t LaunchGatherRows(const Tensor& x, const int32_t* rows, const Tensor& out,
                             cudaStream_t stream) {
  GatherRows<<<out.rows, kThreads, 0, stream>>>(
      As<float>(x), x.stride, rows, static_cast<int>(out.columns), As<float>(out), out.stride);
  return cudaGetLastError();
}

cudaError_t LaunchAddBias(const float* bias, const Tensor& out, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(out.rows),
                  static_cast<unsigned>((out.columns + kThreads - 1) / kThreads));
  AddBias<<<grid, kThreads, 0, stream>>>(bias, static_cast<int>(out.columns), As<float>(out),
                                         out.stride);
  return cudaGetLastError();
}

}  // namespace winnow::cuda
