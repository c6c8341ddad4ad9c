#include <cuda_bf16.h>

#include "kernels/cuda/decode_kernels.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/read_once.cuh"
#include "kernels/cuda/thin_product.h"

// A block of threads takes 16 rows of w, whose columns its warps divide among them in chunks of 32.
// A thread loads 16 bytes of a row at once: eight consecutive columns. The tensor cores want pairs
// of columns that lie apart, but a sum does not care for its order: as long as x is loaded the same
// way, the eight columns can stand for any eight of the chunk. The warps' sums are added up in
// shared memory, always in the same order.

namespace winnow::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;
constexpr int kBlockRows = 16;
constexpr int kChunk = 32;  // columns
constexpr int kAhead = 4;   // chunks that a warp loads before it multiplies

struct ThinProduct {
  const __nv_bfloat16* x;  // [rows, columns]
  int64_t x_stride;
  const __nv_bfloat16* w;  // [outputs, columns]
  void* out;               // [rows, outputs]
  int64_t out_stride;
  int rows;
  int columns;
  int outputs;
  bool accumulate;
};

// sum += a b: 16 x 8, over 16.
__device__ __forceinline__ void MultiplyAdd(float (&sum)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                            uint32_t a3, uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};\n"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

__device__ __forceinline__ void Store(float* at, float value, bool accumulate) {
  *at = accumulate ? *at + value : value;
}

__device__ __forceinline__ void Store(__nv_bfloat16* at, float value, bool) {
  *at = __float2bfloat16_rn(value);
}

template <typename Out>
__global__ void __launch_bounds__(kThreads, 2) Multiply(const __grid_constant__ ThinProduct call) {
  __shared__ float sums[kWarps][kMaxThinRows][kBlockRows + 1];
  LetNextKernelStart();
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int group = lane / 4;  // row of w, of x
  const int column = warp * kChunk + lane % 4 * 8;
  const int first_output = blockIdx.x * kBlockRows;
  const __nv_bfloat16* w[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = min(first_output + group + 8 * half, call.outputs - 1);
    w[half] = call.w + int64_t{row} * call.columns + column;
  }
  const __nv_bfloat16* x = call.x + min(group, call.rows - 1) * call.x_stride + column;

  const auto inside = [&](int chunk) { return column + chunk * (kWarps * kChunk) < call.columns; };
  uint4 weights[kAhead][2];
  const auto load = [&](int first) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int chunk = first + i;
        weights[i][half] =
            inside(chunk) ? ReadOnce(w[half] + chunk * (kWarps * kChunk)) : uint4{0, 0, 0, 0};
      }
    }
  };
  load(0);
  WaitForPreviousKernel();

  float sum[4] = {};
  for (int first = 0; inside(first); first += kAhead) {
    uint4 current[kAhead][2];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      current[i][0] = weights[i][0];
      current[i][1] = weights[i][1];
    }
    load(first + kAhead);
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const uint4 low = current[i][0];
      const uint4 high = current[i][1];
      uint4 factor = {0, 0, 0, 0};
      if (inside(first + i)) {
        factor = *reinterpret_cast<const uint4*>(x + (first + i) * (kWarps * kChunk));
      }
      MultiplyAdd(sum, low.x, high.x, low.y, high.y, factor.x, factor.y);
      MultiplyAdd(sum, low.z, high.z, low.w, high.w, factor.z, factor.w);
    }
  }

#pragma unroll
  for (int i = 0; i < 4; ++i) sums[warp][lane % 4 * 2 + i % 2][group + i / 2 * 8] = sum[i];
  __syncthreads();
  for (int i = threadIdx.x; i < call.rows * kBlockRows; i += kThreads) {
    const int row = i / kBlockRows;
    const int output = i % kBlockRows;
    if (first_output + output >= call.outputs) continue;
    float total = 0;
#pragma unroll
    for (int other = 0; other < kWarps; ++other) total += sums[other][row][output];
    Store(static_cast<Out*>(call.out) + row * call.out_stride + first_output + output, total,
          call.accumulate);
  }
}

template <typename Out>
cudaError_t Launch(const ThinProduct& call, cudaStream_t stream) {
  const LaunchShape shape{.blocks = (call.outputs + kBlockRows - 1) / kBlockRows,
                          .threads = kThreads};
  return LaunchEarly(Multiply<Out>, shape, CurrentDeviceTraits().capability_major, stream, call);
}

}  // namespace

bool IsThinProduct(const Tensor& x, const Tensor& out) {
  return x.rows <= kMaxThinRows && x.columns % kChunk == 0 && x.stride % 8 == 0 &&
         out.columns % 8 == 0;
}

cudaError_t LaunchThinProduct(const Tensor& x, const void* w, bool accumulate, const Tensor& out,
                              cudaStream_t stream) {
  const ThinProduct call{.x = static_cast<const __nv_bfloat16*>(x.data),
                         .x_stride = x.stride,
                         .w = static_cast<const __nv_bfloat16*>(w),
                         .out = out.data,
                         .out_stride = out.stride,
                         .rows = static_cast<int>(x.rows),
                         .columns = static_cast<int>(x.columns),
                         .outputs = static_cast<int>(out.columns),
                         .accumulate = accumulate};
  return out.type == DataType::kBF16 ? Launch<__nv_bfloat16>(call, stream)
                                     : Launch<float>(call, stream);
}

}  // namespace winnow::cuda
