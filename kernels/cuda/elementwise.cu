#include <cuda_bf16.h>

#include "kernels/cuda/decode_kernels.h"
#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/launch.cuh"

namespace winnow::cuda {
namespace {

using bf16 = __nv_bfloat16;

constexpr int kThreads = 256;

__global__ void Embed(const bf16* table, const int32_t* tokens, float scale, int columns,
                      float* out, int64_t stride) {
  const bf16* row = table + int64_t{tokens[blockIdx.x]} * columns;
  float* to = out + blockIdx.x * stride;
  for (int c = threadIdx.x; c < columns; c += kThreads) to[c] = scale * __bfloat162float(row[c]);
}

struct GateUp {
  const bf16* gate_up;
  int64_t gate_stride;
  int columns;
  bf16* out;
  int64_t out_stride;
  int pieces;  // of a row, each a block
};

template <Activation kActivation>
__device__ float Activate(float x) {
  if constexpr (kActivation == Activation::kSilu) return x / (1 + __expf(-x));
  // (1 + tanh(u)) / 2 = 1 / (1 + exp(-2 u))
  constexpr float kTwiceSqrtOf2ByPi = 1.5957691216f;
  return x / (1 + __expf(-kTwiceSqrtOf2ByPi * (x + 0.044715f * x * x * x)));
}

template <Activation kActivation>
__global__ void Gate(const __grid_constant__ GateUp call) {
  LetNextKernelStart();
  WaitForPreviousKernel();
  const int row = blockIdx.x / call.pieces;
  const int c = blockIdx.x % call.pieces * kThreads + threadIdx.x;
  if (c >= call.columns) return;
  const bf16* gate = call.gate_up + row * call.gate_stride + c;
  call.out[row * call.out_stride + c] = __float2bfloat16_rn(
      Activate<kActivation>(__bfloat162float(*gate)) * __bfloat162float(gate[call.columns]));
}

// Eight columns a thread.
template <Activation kActivation>
__global__ void GateVectors(const __grid_constant__ GateUp call) {
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
    product[i] =
        __floats2bfloat162_rn(Activate<kActivation>(g.x) * u.x, Activate<kActivation>(g.y) * u.y);
  }
  *reinterpret_cast<uint4*>(call.out + row * call.out_stride + c) = products;
}

__global__ void GatherRows(const float* x, int64_t x_stride, const int32_t* rows, int columns,
                           float* out, int64_t out_stride) {
  const float* row = x + rows[blockIdx.x] * x_stride;
  float* to = out + blockIdx.x * out_stride;
  for (int c = threadIdx.x; c < columns; c += kThreads) to[c] = row[c];
}

template <typename T>
__global__ void AddBias(const float* bias, int columns, T* out, int64_t stride) {
  const int c = blockIdx.y * kThreads + threadIdx.x;
  if (c >= columns) return;
  T& value = out[blockIdx.x * stride + c];
  value = static_cast<T>(static_cast<float>(value) + bias[c]);
}

// cap tanh(x / cap).
__global__ void SoftCap(float cap, int columns, float* x, int64_t stride) {
  const int c = blockIdx.y * kThreads + threadIdx.x;
  if (c >= columns) return;
  float& value = x[blockIdx.x * stride + c];
  value = cap * tanhf(value / cap);
}

// A kernel's blocks: of each row those that its columns take.
dim3 GridOf(const Tensor& tensor) {
  return dim3(static_cast<unsigned>(tensor.rows),
              static_cast<unsigned>((tensor.columns + kThreads - 1) / kThreads));
}

template <typename T>
T* As(const Tensor& tensor) {
  return static_cast<T*>(tensor.data);
}

}  // namespace

cudaError_t LaunchEmbed(const void* table, const int32_t* tokens, float scale, const Tensor& out,
                        cudaStream_t stream) {
  Embed<<<out.rows, kThreads, 0, stream>>>(static_cast<const bf16*>(table), tokens, scale,
                                           static_cast<int>(out.columns), As<float>(out),
                                           out.stride);
  return cudaGetLastError();
}

cudaError_t LaunchGate(Activation activation, const Tensor& gate_up, const Tensor& out,
                       cudaStream_t stream) {
  const bool vectors = out.columns % 8 == 0 && gate_up.stride % 8 == 0 && out.stride % 8 == 0;
  const int piece = kThreads * (vectors ? 8 : 1);
  const GateUp call{
      As<const bf16>(gate_up), gate_up.stride, static_cast<int>(out.columns),
      As<bf16>(out),           out.stride,     static_cast<int>((out.columns + piece - 1) / piece)};
  auto* kernel = vectors ? GateVectors<Activation::kSilu> : Gate<Activation::kSilu>;
  if (activation == Activation::kGeluTanh) {
    kernel = vectors ? GateVectors<Activation::kGeluTanh> : Gate<Activation::kGeluTanh>;
  }
  return LaunchEarly(kernel,
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
  const auto columns = static_cast<int>(out.columns);
  if (out.type == DataType::kBF16) {
    AddBias<<<GridOf(out), kThreads, 0, stream>>>(bias, columns, As<bf16>(out), out.stride);
  } else {
    AddBias<<<GridOf(out), kThreads, 0, stream>>>(bias, columns, As<float>(out), out.stride);
  }
  return cudaGetLastError();
}

cudaError_t LaunchSoftCap(float cap, const Tensor& x, cudaStream_t stream) {
  SoftCap<<<GridOf(x), kThreads, 0, stream>>>(cap, static_cast<int>(x.columns), As<float>(x),
                                              x.stride);
  return cudaGetLastError();
}

}  // namespace winnow::cuda
