#include <cuda_bf16.h>

#include "kernels/cuda/elementwise.h"

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

__global__ void __launch_bounds__(kNormThreads)
    RmsNorm(const float* x, int64_t x_stride, const float* weight, float epsilon, int columns,
            bf16* out, int64_t out_stride) {
  const float* row = x + blockIdx.x * x_stride;
  bf16* to = out + blockIdx.x * out_stride;
  float squares = 0;
  for (int c = threadIdx.x; c < columns; c += kNormThreads) squares += row[c] * row[c];
  const float scale = rsqrtf(BlockSum(squares) / static_cast<float>(columns) + epsilon);
  for (int c = threadIdx.x; c < columns; c += kNormThreads) {
    to[c] = __float2bfloat16_rn(row[c] * scale * weight[c]);
  }
}

// The same for rows of whole float4 that a block's registers hold, read once.
constexpr int kNormVectors = 4;  // of a thread

__global__ void __launch_bounds__(kNormThreads)
    RmsNormVectors(const float* x, int64_t x_stride, const float* weight, float epsilon,
                   int columns, bf16* out, int64_t out_stride) {
  const auto* row = reinterpret_cast<const float4*>(x + blockIdx.x * x_stride);
  const auto* weights = reinterpret_cast<const float4*>(weight);
  auto* to = reinterpret_cast<uint2*>(out + blockIdx.x * out_stride);
  float4 values[kNormVectors];
  float squares = 0;
#pragma unroll
  for (int i = 0; i < kNormVectors; ++i) {
    const int at = threadIdx.x + i * kNormThreads;
    if (at * 4 >= columns) break;
    const float4 v = row[at];
    values[i] = v;
    squares += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
  }
  const float scale = rsqrtf(BlockSum(squares) / static_cast<float>(columns) + epsilon);
#pragma unroll
  for (int i = 0; i < kNormVectors; ++i) {
    const int at = threadIdx.x + i * kNormThreads;
    if (at * 4 >= columns) break;
    const float4 v = values[i];
    const float4 w = weights[at];
    const __nv_bfloat162 low = __floats2bfloat162_rn(v.x * scale * w.x, v.y * scale * w.y);
    const __nv_bfloat162 high = __floats2bfloat162_rn(v.z * scale * w.z, v.w * scale * w.w);
    to[at] = {reinterpret_cast<const uint32_t&>(low), reinterpret_cast<const uint32_t&>(high)};
  }
}

__device__ float Silu(float x) { return x / (1 + __expf(-x)); }

__global__ void SwiGlu(const bf16* gate_up, int64_t gate_stride, int columns, bf16* out,
                       int64_t out_stride) {
  const int c = blockIdx.y * kThreads + threadIdx.x;
  if (c >= columns) return;
  const bf16* row = gate_up + blockIdx.x * gate_stride;
  out[blockIdx.x * out_stride + c] =
      __float2bfloat16_rn(Silu(__bfloat162float(row[c])) * __bfloat162float(row[columns + c]));
}

// Eight columns a thread.
__global__ void SwiGluVectors(const bf16* gate_up, int64_t gate_stride, int columns, bf16* out,
                              int64_t out_stride) {
  const int c = 8 * (blockIdx.y * kThreads + threadIdx.x);
  if (c >= columns) return;
  const bf16* row = gate_up + blockIdx.x * gate_stride + c;
  const uint4 gates = *reinterpret_cast<const uint4*>(row);
  const uint4 ups = *reinterpret_cast<const uint4*>(row + columns);
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
  *reinterpret_cast<uint4*>(out + blockIdx.x * out_stride + c) = products;
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

// Blocks of kThreads threads, each with `elements` columns, of every row.
dim3 Grid(const Tensor& tensor, int elements) {
  const int64_t columns = int64_t{kThreads} * elements;
  return {static_cast<unsigned>(tensor.rows),
          static_cast<unsigned>((tensor.columns + columns - 1) / columns)};
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
  const auto columns = static_cast<int>(x.columns);
  const bool vectors = columns <= 4 * kNormVectors * kNormThreads && columns % 4 == 0 &&
                       x.stride % 4 == 0 && out.stride % 4 == 0;
  const auto kernel = vectors ? RmsNormVectors : RmsNorm;
  kernel<<<x.rows, kNormThreads, 0, stream>>>(As<float>(x), x.stride, weight, epsilon, columns,
                                              As<bf16>(out), out.stride);
  return cudaGetLastError();
}

cudaError_t LaunchSwiGlu(const Tensor& gate_up, const Tensor& out, cudaStream_t stream) {
  const bool vectors = out.columns % 8 == 0 && gate_up.stride % 8 == 0 && out.stride % 8 == 0;
  const auto kernel = vectors ? SwiGluVectors : SwiGlu;
  kernel<<<Grid(out, vectors ? 8 : 1), kThreads, 0, stream>>>(
      As<bf16>(gate_up), gate_up.stride, static_cast<int>(out.columns), As<bf16>(out), out.stride);
  return cudaGetLastError();
}

cudaError_t LaunchGatherRows(const Tensor& x, const int32_t* rows, const Tensor& out,
                             cudaStream_t stream) {
  GatherRows<<<out.rows, kThreads, 0, stream>>>(
      As<float>(x), x.stride, rows, static_cast<int>(out.columns), As<float>(out), out.stride);
  return cudaGetLastError();
}

cudaError_t LaunchAddBias(const float* bias, const Tensor& out, cudaStream_t stream) {
  AddBias<<<Grid(out, 1), kThreads, 0, stream>>>(bias, static_cast<int>(out.columns),
                                                 As<float>(out), out.stride);
  return cudaGetLastError();
}

}  // namespace winnow::cuda
