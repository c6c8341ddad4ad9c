#include <cuda_bf16.h>

#include <algorithm>

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/decode_kernels.h"
#include "kernels/cuda/expert_product.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/mma.cuh"

// A block of threads takes 32 rows of one expert's weights; blocks of experts that no row has
// chosen leave at once. As in thin_product.cu, warps divide the columns among them in chunks of 32,
// of which a thread takes eight consecutive ones of a row at once. Weights go through rings of
// shared memory in which each thread finds what it has asked for itself, so nobody waits for
// others, and several chunks are under way.

namespace winnow::cuda {
namespace {

using bf16 = __nv_bfloat16;

constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;
constexpr int kBlockRows = 32;
constexpr int kRowTiles = kBlockRows / 16;
constexpr int kChunk = 32;              // columns
constexpr int kStep = kWarps * kChunk;  // columns between a warp's chunks
constexpr int kStages = 4;
constexpr int kPairTile = 8;
constexpr int kMostPairTiles = 3;

// A chunk: eight columns of rows i 8 + lane / 4.
struct Stage {
  uint4 weights[kBlockRows / 8][32];
};

struct Shared {
  Stage ring[kWarps][kStages];
  float sums[kWarps][kPairTile][kBlockRows + 1];
};

__device__ __forceinline__ void Store(float* at, float value) { *at = value; }
__device__ __forceinline__ void Store(bf16* at, float value) { *at = __float2bfloat16_rn(value); }

// Of `count` pairs, at most kTiles tiles of them.
template <int kTiles, typename Out>
__device__ void Multiply(const ExpertProduct& call, int expert, const int32_t* pairs, int count,
                         int first_output, Shared& shared) {
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int group = lane / 4;  // row of w, or pair
  const int column = warp * kChunk + lane % 4 * 8;
  const int chunks = max(0, (call.columns - warp * kChunk + kStep - 1) / kStep);
  const auto inside = [&](int chunk) { return column + chunk * kStep < call.columns; };

  const bf16* w = static_cast<const bf16*>(call.w) +
                  (int64_t{expert} * call.outputs + first_output) * call.columns + column;
  int rows[kBlockRows / 8];  // where they begin
#pragma unroll
  for (int i = 0; i < kBlockRows / 8; ++i) {
    rows[i] = min(group + 8 * i, call.outputs - 1 - first_output) * call.columns;
  }
  Stage* const ring = shared.ring[warp];
  const auto copy = [&](int chunk) {
    if (chunk < chunks) {
#pragma unroll
      for (int i = 0; i < kBlockRows / 8; ++i) {
        const auto to = __cvta_generic_to_shared(&ring[chunk % kStages].weights[i][lane]);
        CopyAsync(static_cast<uint32_t>(to), inside(chunk) ? w + rows[i] + chunk * kStep : call.w,
                  inside(chunk));
      }
    }
    CommitCopies();
  };
#pragma unroll
  for (int chunk = 0; chunk < kStages; ++chunk) copy(chunk);

  const bf16* x = static_cast<const bf16*>(call.x) + column;
  uint32_t x_rows[kTiles];  // where they begin
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    const int pair = pairs[min(tile * kPairTile + group, count - 1)];
    x_rows[tile] = static_cast<uint32_t>(pair / call.x_pairs * call.x_stride);
  }
  float sum[kRowTiles][kTiles][4] = {};
  for (int chunk = 0; chunk < chunks; ++chunk) {
    uint4 factor[kTiles];
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      factor[tile] = inside(chunk)
                         ? *reinterpret_cast<const uint4*>(x + x_rows[tile] + chunk * kStep)
                         : uint4{0, 0, 0, 0};
    }
    WaitForCopies<kStages - 1>();
    const Stage& stage = ring[chunk % kStages];
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
      const uint4 low = stage.weights[2 * m][lane];
      const uint4 high = stage.weights[2 * m + 1][lane];
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        // Any order of columns will do, the same for both factors.
        MmaBf16(sum[m][tile], {low.x, high.x, low.y, high.y}, factor[tile].x, factor[tile].y);
        MmaBf16(sum[m][tile], {low.z, high.z, low.w, high.w}, factor[tile].z, factor[tile].w);
      }
    }
    copy(chunk + kStages);
  }
  WaitForCopies<0>();

#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    __syncthreads();  // before sums are overwritten
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        shared.sums[warp][lane % 4 * 2 + i % 2][16 * m + group + i / 2 * 8] = sum[m][tile][i];
      }
    }
    __syncthreads();
    static_assert(kThreads == kPairTile * kBlockRows);
    const int at = tile * kPairTile + threadIdx.x / kBlockRows;
    const int output = threadIdx.x % kBlockRows;
    if (at >= count || first_output + output >= call.outputs) continue;
    float total = 0;
#pragma unroll
    for (int other = 0; other < kWarps; ++other) {
      total += shared.sums[other][threadIdx.x / kBlockRows][output];
    }
    Store(static_cast<Out*>(call.out) + pairs[at] * call.out_stride + first_output + output, total);
  }
}

template <typename Out>
__global__ void __launch_bounds__(kThreads, 3)
    ThinExperts(const __grid_constant__ ExpertProduct call) {
  extern __shared__ __align__(16) std::byte memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory);
  LetNextKernelStart();
  const int expert_blocks = (call.outputs + kBlockRows - 1) / kBlockRows;
  WaitForPreviousKernel();
  const ExpertGroup group = call.routes.groups[blockIdx.x / expert_blocks];
  const int first_output = blockIdx.x % expert_blocks * kBlockRows;
  for (int first = 0; first < group.count; first += kMostPairTiles * kPairTile) {
    const int32_t* pairs = call.routes.pairs + group.begin + first;
    const int count = group.count - first;
    if (count <= kPairTile) {
      Multiply<1, Out>(call, group.expert, pairs, count, first_output, shared);
    } else if (count <= 2 * kPairTile) {
      Multiply<2, Out>(call, group.expert, pairs, count, first_output, shared);
    } else {
      Multiply<kMostPairTiles, Out>(call, group.expert, pairs, count, first_output, shared);
    }
  }
}

}  // namespace

cudaError_t LaunchThinExperts(const ExpertProduct& call, cudaStream_t stream) {
  const int64_t pairs = call.routes.rows * call.routes.chosen;
  const auto groups = static_cast<int>(std::min<int64_t>(call.routes.experts, pairs));
  const LaunchShape shape{.blocks = groups * ((call.outputs + kBlockRows - 1) / kBlockRows),
                          .threads = kThreads,
                          .shared_bytes = sizeof(Shared)};
  return LaunchEarly(call.out_type == DataType::kBF16 ? ThinExperts<bf16> : ThinExperts<float>,
                     shape, CurrentDeviceTraits().capability_major, stream, call);
}

}  // namespace winnow::cuda
