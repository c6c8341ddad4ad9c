#pragma once

#include <cstdint>

#include "kernels/cuda/budgets.cuh"
#include "kernels/cuda/decode_kernels.h"
#include "kernels/cuda/math.cuh"

// How what decoding rows attend to is divided among blocks: see decode_attend.cu.

namespace winnow::cuda::attend {

inline constexpr int kTile = 16;
inline constexpr int kWarps = 4;
inline constexpr int kThreads = 32 * kWarps;
inline constexpr int kMinTilesPerBlock = kWarps;

struct Arguments {
  DecodeAttention call;
  BudgetWeights weights;
  TailWeights tails;
  ScoreCap cap;
  AttendScratch scratch;

  // Of a KV head of a row, `item` = row kv_heads + kv_head.
  __device__ int Budget(int item) const {
    return BudgetOf(call, weights, item / call.kv_heads, item % call.kv_heads);
  }
  // DecodeAttention::tails of its query heads; null: what is not chosen is left out.
  __device__ const float* Tails(int item) const {
    if (call.tail_weights == nullptr) return nullptr;
    const bool has_tail =
        TailOf(call, weights, tails, item / call.kv_heads, item % call.kv_heads) > 0;
    return has_tail ? call.tails + int64_t{item} * call.group * (1 + call.head_dim) : nullptr;
  }
};

__device__ inline int TilesOf(int budget) { return (budget + kTile - 1) / kTile; }

// How the list is divided among blocks.
struct Division {
  int64_t tiles;
  int64_t blocks;

  __device__ int64_t Begin(int64_t block) const { return block * tiles / blocks; }
  __device__ int BlockOf(int64_t tile) const {
    return static_cast<int>(((tile + 1) * blocks - 1) / tiles);
  }
};

// Finds the head in whose tiles the block's part begins.
struct Start {
  int64_t tiles;  // of all heads
  int64_t first;  // of the head found
  int item;
};

// Sums of value over the threads before this one; *total that over all.
__device__ inline int64_t PrefixSum(int64_t value, int64_t* total) {
  __shared__ int64_t of_warp[kWarps];
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  int64_t sum = value;
  for (int step = 1; step < 32; step *= 2) {
    const int64_t below = __shfl_up_sync(~0u, sum, step);
    if (lane >= step) sum += below;
  }
  if (lane == 31) of_warp[warp] = sum;
  __syncthreads();
  int64_t before = 0;
  *total = 0;
  for (int w = 0; w < kWarps; ++w) {
    if (w < warp) before += of_warp[w];
    *total += of_warp[w];
  }
  return before + sum - value;
}

__device__ inline Start FindStart(const Arguments& arguments, Division* division) {
  __shared__ Start found;
  const int items = arguments.call.rows * arguments.call.kv_heads;
  const int per_thread = (items + kThreads - 1) / kThreads;
  const int begin = min(items, static_cast<int>(threadIdx.x) * per_thread);
  const int end = min(items, begin + per_thread);
  int64_t tiles = 0;
  for (int i = begin; i < end; ++i) tiles += TilesOf(arguments.Budget(i));
  int64_t total;
  int64_t first = PrefixSum(tiles, &total);
  division->tiles = total;
  division->blocks = max(int64_t{1}, min(int64_t{gridDim.x}, total / kMinTilesPerBlock));
  if (threadIdx.x == 0) found = {total, 0, items};
  __syncthreads();
  const int64_t wanted = blockIdx.x < division->blocks ? division->Begin(blockIdx.x) : total;
  if (wanted >= first && wanted < first + tiles) {
    int item = begin;
    for (int more = TilesOf(arguments.Budget(item)); first + more <= wanted;
         more = TilesOf(arguments.Budget(item))) {
      first += more;
      ++item;
    }
    found = {total, first, item};
  }
  __syncthreads();
  return found;
}

}  // namespace winnow::cuda::attend
