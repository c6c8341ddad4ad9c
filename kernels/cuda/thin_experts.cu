#include <cuda_bf16.h>

#include <algorithm>

#include "kernels/cuda/decode_kernels.h"
#include "kernels/cuda/expert_product.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/read_once.cuh"

// A block of threads takes 16 rows of one expert's weights; blocks of experts that no row has
// chosen leave at once. As in thin_product.cu, warps divide the columns among them in chunks, here
// of 64: whole lines of memory. A thread loads eight consecutive columns of a row at once, which
// stand for any eight as long as x has the same, straight into registers, and the chunks that come
// next before it multiplies those that are there.

namespace winnow::cuda {
namespace {

using bf16 = __nv_bfloat16;

constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;
constexpr int kBlockRows = 16;
constexpr int kPartColumns = 32;  // of a warp: eight a thread
constexpr int kParts = 2;         // of a chunk
constexpr int kChunk = kParts * kPartColumns;
constexpr int kStep = kWarps * kChunk;  // columns between a warp's chunks
constexpr int kAhead = 2;               // chunks that a warp loads before it multiplies
constexpr int kPieces = kAhead * kParts;
constexpr int kPairTile = 8;
constexpr int kMostPairTiles = 2;

using Sums = float[kWarps][kPairTile][kBlockRows + 1];

__device__ __forceinline__ void Store(float* at, float value) { *at = value; }
__device__ __forceinline__ void Store(bf16* at, float value) { *at = __float2bfloat16_rn(value); }

// Of `count` pairs, at most kTiles tiles of them.
template <int kTiles, typename Out>
__device__ void Multiply(const ExpertProduct& call, int expert, const int32_t* pairs, int count,
                         int first_output, Sums& sums) {
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int group = lane / 4;  // row of w, or pair
  const int column = warp * kChunk + lane % 4 * 8;
  const int chunks = max(0, (call.columns - warp * kChunk + kStep - 1) / kStep);
  // The piece-th one's columns from the first-th chunk on, counted from `column`.
  const auto columns_of = [](int first, int piece) {
    return (first + piece / kParts) * kStep + piece % kParts * kPartColumns;
  };

  const bf16* w[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = min(first_output + group + 8 * half, call.outputs - 1);
    w[half] = static_cast<const bf16*>(call.w) +
              (int64_t{expert} * call.outputs + row) * call.columns + column;
  }
  uint4 weights[kPieces][2];
  const auto load = [&](int first) {
#pragma unroll
    for (int piece = 0; piece < kPieces; ++piece) {
      const int at = columns_of(first, piece);
      const bool inside = column + at < call.columns;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        weights[piece][half] = inside ? ReadOnce(w[half] + at) : uint4{0, 0, 0, 0};
      }
    }
  };
  load(0);
  const bf16* x[kTiles];
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    const int pair = pairs[min(tile * kPairTile + group, count - 1)];
    x[tile] = static_cast<const bf16*>(call.x) + pair / call.x_pairs * call.x_stride + column;
  }

  float sum[kTiles][4] = {};
  for (int first = 0; first < chunks; first += kAhead) {
    uint4 current[kPieces][2];
#pragma unroll
    for (int piece = 0; piece < kPieces; ++piece) {
      current[piece][0] = weights[piece][0];
      current[piece][1] = weights[piece][1];
    }
    load(first + kAhead);
#pragma unroll
    for (int piece = 0; piece < kPieces; ++piece) {
      const int at = columns_of(first, piece);
      const uint4 low = current[piece][0];
      const uint4 high = current[piece][1];
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        uint4 factor = {0, 0, 0, 0};
        if (column + at < call.columns) factor = *reinterpret_cast<const uint4*>(x[tile] + at);
        // Any order of columns will do, the same for both factors.
        MmaBf16(sum[tile], {low.x, high.x, low.y, high.y}, factor.x, factor.y);
        MmaBf16(sum[tile], {low.z, high.z, low.w, high.w}, factor.z, factor.w);
      }
    }
  }

#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    __syncthreads();  // before sums are overwritten
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      sums[warp][lane % 4 * 2 + i % 2][group + i / 2 * 8] = sum[tile][i];
    }
    __syncthreads();
    if (threadIdx.x >= kPairTile * kBlockRows) continue;
    const int row = threadIdx.x / kBlockRows;
    const int output = threadIdx.x % kBlockRows;
    const int at = tile * kPairTile + row;
    if (at >= count || first_output + output >= call.outputs) continue;
    float total = 0;
#pragma unroll
    for (int other = 0; other < kWarps; ++other) total += sums[other][row][output];
    Store(static_cast<Out*>(call.out) + pairs[at] * call.out_stride + first_output + output, total);
  }
}

template <typename Out>
__global__ void __launch_bounds__(kThreads, 2)
    ThinExperts(const __grid_constant__ ExpertProduct call) {
  __shared__ Sums sums;
  LetNextKernelStart();
  const int expert_blocks = (call.outputs + kBlockRows - 1) / kBlockRows;
  WaitForPreviousKernel();
  const ExpertGroup group = call.routes.groups[blockIdx.x / expert_blocks];
  const int first_output = blockIdx.x % expert_blocks * kBlockRows;
  for (int first = 0; first < group.count; first += kMostPairTiles * kPairTile) {
    const int32_t* pairs = call.routes.pairs + group.begin + first;
    const int count = group.count - first;
    if (count <= kPairTile) {
      Multiply<1, Out>(call, group.expert, pairs, count, first_output, sums);
    } else {
      Multiply<kMostPairTiles, Out>(call, group.expert, pairs, count, first_output, sums);
    }
  }
}

}  // namespace

cudaError_t LaunchThinExperts(const ExpertProduct& call, cudaStream_t stream) {
  const int64_t pairs = call.routes.rows * call.routes.chosen;
  const auto groups = static_cast<int>(std::min<int64_t>(call.routes.experts, pairs));
  const LaunchShape shape{.blocks = groups * ((call.outputs + kBlockRows - 1) / kBlockRows),
                          .threads = kThreads};
  return LaunchEarly(call.out_type == DataType::kBF16 ? ThinExperts<bf16> : ThinExperts<float>,
                     shape, CurrentDeviceTraits().capability_major, stream, call);
}

}  // namespace winnow::cuda
