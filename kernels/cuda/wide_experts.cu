#include <cuda_bf16.h>

#include <algorithm>

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/decode_kernels.h"
#include "kernels/cuda/expert_product.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/mma.cuh"

// A block of threads computes a tile: some pairs of one expert times kTileOutputs rows of its
// weights, in stages of kStageColumns columns that are copied to shared memory while those before
// are multiplied. Rows of x are gathered on the way. How many tiles an expert has only the device
// knows: there are blocks for as many as there can be, and those that find none leave.

namespace winnow::cuda {
namespace {

using bf16 = __nv_bfloat16;

constexpr int kThreads = 128;
constexpr int kTileOutputs = 128;
constexpr int kStageColumns = 64;
constexpr int kStages = 3;
constexpr int kPieces = kStageColumns / 8;      // of 16 bytes
constexpr int kCopyRows = kThreads / kPieces;   // copied together
constexpr int kWarpOutputs = kTileOutputs / 2;  // two warps by two
constexpr unsigned kFullWarp = 0xffffffff;

template <int kTilePairs>
constexpr int StageBytes() {
  return (kTilePairs + kTileOutputs) * kStageColumns * 2;
}

// Pieces are swapped about so that eight rows' pieces of one column lie in different banks.
__device__ __forceinline__ uint32_t Piece(int row, int piece) {
  return static_cast<uint32_t>(row * kStageColumns * 2 + (piece ^ (row & 7)) * 16);
}

// Pairs [begin, begin + count) of the routes' order, all of one expert; none if count is 0.
struct Tile {
  int expert = 0;
  int begin = 0;
  int count = 0;
};

// The index-th tile of the step, found by each warp for itself.
template <int kTilePairs>
__device__ Tile FindTile(const ExpertRoutes& routes, int index) {
  const int lane = threadIdx.x % 32;
  for (int first = 0; first < routes.experts; first += 32) {
    const ExpertGroup group =
        first + lane < routes.experts ? routes.groups[first + lane] : ExpertGroup{0, 0, 0};
    const int tiles = (group.count + kTilePairs - 1) / kTilePairs;
    int after = tiles;  // of all lanes up to this one
    for (int other = 1; other < 32; other *= 2) {
      const int their = __shfl_up_sync(kFullWarp, after, other);
      if (lane >= other) after += their;
    }
    const unsigned beyond = __ballot_sync(kFullWarp, after > index);
    if (beyond != 0) {
      const int owner = __ffs(static_cast<int>(beyond)) - 1;
      const int skipped = (index - (after - tiles)) * kTilePairs;
      return {__shfl_sync(kFullWarp, group.expert, owner),
              __shfl_sync(kFullWarp, group.begin + skipped, owner),
              __shfl_sync(kFullWarp, min(kTilePairs, group.count - skipped), owner)};
    }
    index -= __shfl_sync(kFullWarp, after, 31);
  }
  return {};
}

__device__ __forceinline__ void Store(float* at, float first, float second) {
  *reinterpret_cast<float2*>(at) = {first, second};
}
__device__ __forceinline__ void Store(bf16* at, float first, float second) {
  *reinterpret_cast<__nv_bfloat162*>(at) = __floats2bfloat162_rn(first, second);
}

template <int kTilePairs, typename Out>
__global__ void __launch_bounds__(kThreads, 2)
    WideExperts(const __grid_constant__ ExpertProduct call, int pair_tiles) {
  extern __shared__ __align__(128) std::byte memory[];
  constexpr int kWarpPairs = kTilePairs / 2;
  constexpr int kPairFragments = kWarpPairs / 16;
  constexpr int kOutputFragments = kWarpOutputs / 16;
  constexpr int kPairCopies = kTilePairs / kCopyRows;
  constexpr int kOutputCopies = kTileOutputs / kCopyRows;
  const Tile tile = FindTile<kTilePairs>(call.routes, static_cast<int>(blockIdx.x) % pair_tiles);
  if (tile.count == 0) return;
  const int first_output = static_cast<int>(blockIdx.x) / pair_tiles * kTileOutputs;
  const int32_t* pairs = call.routes.pairs + tile.begin;

  const auto base = static_cast<uint32_t>(__cvta_generic_to_shared(memory));
  const int piece = threadIdx.x % kPieces;
  const int copy_row = threadIdx.x / kPieces;
  const bf16* x[kPairCopies];  // null: there is no such pair
#pragma unroll
  for (int i = 0; i < kPairCopies; ++i) {
    const int row = copy_row + i * kCopyRows;
    x[i] = row < tile.count ? static_cast<const bf16*>(call.x) +
                                  pairs[row] / call.x_pairs * call.x_stride + piece * 8
                            : nullptr;
  }
  const bf16* w = static_cast<const bf16*>(call.w) +
                  (int64_t{tile.expert} * call.outputs + first_output + copy_row) * call.columns +
                  piece * 8;
  const int stages = (call.columns + kStageColumns - 1) / kStageColumns;
  const auto copy = [&](int stage) {
    if (stage < stages) {
      const int column = stage * kStageColumns;
      const bool inside = column + piece * 8 < call.columns;
      const uint32_t to = base + stage % kStages * StageBytes<kTilePairs>();
#pragma unroll
      for (int i = 0; i < kPairCopies; ++i) {
        const bool valid = inside && x[i] != nullptr;
        CopyAsync(to + Piece(copy_row + i * kCopyRows, piece), valid ? x[i] + column : call.x,
                  valid);
      }
      const uint32_t weights = to + kTilePairs * kStageColumns * 2;
#pragma unroll
      for (int i = 0; i < kOutputCopies; ++i) {
        const int row = copy_row + i * kCopyRows;
        const bool valid = inside && first_output + row < call.outputs;
        CopyAsync(weights + Piece(row, piece),
                  valid ? w + int64_t{i * kCopyRows} * call.columns + column : call.w, valid);
      }
    }
    CommitCopies();
  };
#pragma unroll
  for (int stage = 0; stage < kStages - 1; ++stage) copy(stage);

  const int lane = threadIdx.x % 32;
  const int first_pair = threadIdx.x / 64 * kWarpPairs;       // of the warp, in the tile
  const int first_row = threadIdx.x / 32 % 2 * kWarpOutputs;  // of its weights
  float sum[kPairFragments][2 * kOutputFragments][4] = {};
  for (int stage = 0; stage < stages; ++stage) {
    WaitForCopies<kStages - 2>();
    __syncthreads();  // the stage is there, and the one before it has been read
    copy(stage + kStages - 1);
    const uint32_t rows = base + stage % kStages * StageBytes<kTilePairs>();
    const uint32_t weights = rows + kTilePairs * kStageColumns * 2;
#pragma unroll
    for (int k = 0; k < kStageColumns / 16; ++k) {
      uint32_t a[kPairFragments][4];
#pragma unroll
      for (int m = 0; m < kPairFragments; ++m) {
        LoadMatrices(a[m], rows + Piece(first_pair + m * 16 + lane % 16, 2 * k + lane / 16));
      }
#pragma unroll
      for (int n = 0; n < kOutputFragments; ++n) {
        uint32_t b[4];
        LoadMatrices(b, weights + Piece(first_row + n * 16 + lane / 16 * 8 + lane % 8,
                                        2 * k + lane / 8 % 2));
#pragma unroll
        for (int m = 0; m < kPairFragments; ++m) {
          MmaBf16(sum[m][2 * n], a[m], b[0], b[1]);
          MmaBf16(sum[m][2 * n + 1], a[m], b[2], b[3]);
        }
      }
    }
  }

#pragma unroll
  for (int m = 0; m < kPairFragments; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = first_pair + m * 16 + lane / 4 + half * 8;
      if (row >= tile.count) continue;
      Out* to = static_cast<Out*>(call.out) + pairs[row] * call.out_stride;
#pragma unroll
      for (int n = 0; n < 2 * kOutputFragments; ++n) {
        const int output = first_output + first_row + n * 8 + lane % 4 * 2;
        if (output < call.outputs) Store(to + output, sum[m][n][2 * half], sum[m][n][2 * half + 1]);
      }
    }
  }
}

template <int kTilePairs, typename Out>
cudaError_t Launch(const ExpertProduct& call, cudaStream_t stream) {
  constexpr int kSharedBytes = kStages * StageBytes<kTilePairs>();
  static const cudaError_t configured = cudaFuncSetAttribute(
      WideExperts<kTilePairs, Out>, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  if (configured != cudaSuccess) return configured;
  const int64_t pairs = call.routes.rows * call.routes.chosen;
  // Every expert may have one that is not full.
  const auto pair_tiles =
      static_cast<int>(pairs / kTilePairs + std::min<int64_t>(call.routes.experts, pairs));
  const int output_tiles = (call.outputs + kTileOutputs - 1) / kTileOutputs;
  WideExperts<kTilePairs, Out>
      <<<pair_tiles * output_tiles, kThreads, kSharedBytes, stream>>>(call, pair_tiles);
  return cudaGetLastError();
}

template <typename Out>
cudaError_t Launch(const ExpertProduct& call, cudaStream_t stream) {
  // Large tiles read weights and rows less often; small ones are filled better.
  constexpr int kLarge = 128;
  const int64_t pairs = call.routes.rows * call.routes.chosen;
  return pairs >= 2 * kLarge * call.routes.experts ? Launch<kLarge, Out>(call, stream)
                                                   : Launch<64, Out>(call, stream);
}

}  // namespace

cudaError_t LaunchWideExperts(const ExpertProduct& call, cudaStream_t stream) {
  return call.out_type == DataType::kBF16 ? Launch<bf16>(call, stream)
                                          : Launch<float>(call, stream);
}

}  // namespace winnow::cuda
