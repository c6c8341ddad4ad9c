#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/cuda/attend_shares.cuh"
#include "kernels/cuda/attend_tile.cuh"
#include "kernels/cuda/budgets.cuh"
#include "kernels/cuda/decode_kernels.h"
#include "kernels/cuda/head_sizes.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/math.cuh"

namespace winnow::cuda {
namespace {

using namespace attend;  // NOLINT: this is what its parts are for

// The tokens that one KV head of one row attends to are cut into tiles of kTile. The tiles of all
// heads form one list, of which every block takes an equal part, however long the heads are: so a
// batch of mixed lengths and a single long sequence both fill the device evenly. Where a head's
// tiles fall to several blocks, each leaves a partial result, and the last to arrive adds them up.
//
// A warp takes a tile straight from memory into the operands of matrix instructions. The heads of
// the group are rows 0 to 7 of the first operand; rows 8 to 15 hold what rounding to 16 bits took
// from them, and so with the softmax's weights: the products are as good as in fp32.

template <int kDim>
constexpr int BlocksPerMultiprocessor() {
  return kDim <= 128 ? 3 : 2;
}

// Partial results of one block: of its first head (which others may have begun) and of its last.
constexpr int kPartialsPerBlock = 2;
template <int kDim>
struct Partial {
  float max[kMaxGroup];  // of the scores in units of log 2
  float sum[kMaxGroup];  // of the weights relative to it
  float out[kMaxGroup][kDim];
};

// Tiles [begin, end) of one head's, of which the block has all from `begin` on.
struct Segment {
  int item;  // row kv_heads + kv_head
  int begin;
  int end;
  int tiles;      // of the head
  int64_t first;  // the head's first tile in the list of all
};

__device__ void WriteOut(const DecodeAttention& call, int row, int column, float value) {
  const int64_t at = call.query_rows[row] * call.out_stride + column;
  if (call.out_type == OutType::kF32) {
    static_cast<float*>(call.out)[at] = value;
  } else {
    static_cast<__nv_bfloat16*>(call.out)[at] = __float2bfloat16(value);
  }
}

// A part of the result of one head and one number: softmax weights' sum and the weighted values
// relative to `max`.
struct Part {
  float max = -INFINITY;
  float sum = 0;
  float out = 0;
};

// Adds up part_of(p) for p in [0, parts), in order, a few asked for at a time.
template <typename PartOf>
__device__ Part AddUp(int parts, const PartOf& part_of) {
  constexpr int kUnroll = 4;
  Part total;
  for (int begin = 0; begin < parts; begin += kUnroll) {
    Part some[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) some[u] = part_of(min(begin + u, parts - 1));
    float max = total.max;
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) max = fmaxf(max, some[u].max);
    const float keep = Exp2(total.max - max);
    total = {max, keep * total.sum, keep * total.out};
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const float weight = begin + u < parts ? Exp2(some[u].max - max) : 0;
      total.sum += weight * some[u].sum;
      total.out += weight * some[u].out;
    }
  }
  return total;
}

// Number `c` of what a head of an item does not choose; of sum 0, where that is left out.
template <int kDim>
__device__ Part TailPart(const float* tails, int head, int c) {
  if (tails == nullptr) return {};
  const float* const tail = tails + head * (1 + kDim);
  return {__ldcg(tail), 1, __ldcg(tail + 1 + c)};
}

__device__ float Result(const Part& chosen, const Part& tail) {
  if (tail.sum == 0) return chosen.out / chosen.sum;
  const Part total = AddUp(2, [&](int p) { return p == 0 ? chosen : tail; });
  return total.out / total.sum;
}

// Adds the warps' results up; then, if other blocks hold parts of the head, leaves the sum to the
// last of them.
template <int kDim>
__device__ void Finish(const Arguments& arguments, const Segment& segment, const Division& division,
                       Shared<kDim>& shared) {
  const DecodeAttention& call = arguments.call;
  auto* const partials = reinterpret_cast<Partial<kDim>*>(arguments.scratch.partials);
  const int row = segment.item / call.kv_heads;
  const int first_column = segment.item % call.kv_heads * call.group * kDim;
  const bool is_whole = segment.begin == 0 && segment.end == segment.tiles;
  Partial<kDim>& mine =
      partials[blockIdx.x * kPartialsPerBlock +
               (segment.first + segment.begin == division.Begin(blockIdx.x) ? 0 : 1)];
  for (int x = threadIdx.x; x < call.group * kDim; x += kThreads) {
    const int head = x / kDim;
    const int c = x % kDim;
    const Part tail = is_whole ? TailPart<kDim>(shared.tails, head, c) : Part();
    const Part total = AddUp(kWarps, [&](int w) {
      return Part{shared.max[w][head], shared.sum[w][head], shared.out[w][head][c]};
    });
    if (is_whole) {
      WriteOut(call, row, first_column + x, Result(total, tail));
      continue;
    }
    mine.out[head][c] = total.out;
    if (c == 0) {
      mine.max[head] = total.max;
      mine.sum[head] = total.sum;
    }
  }
  if (is_whole) return;

  const int first_block = division.BlockOf(segment.first);
  const int parts = division.BlockOf(segment.first + segment.tiles - 1) - first_block + 1;
  // One thread's fences, between the block's barriers, order what all its threads write and read.
  __syncthreads();
  int32_t* const arrived = &arguments.scratch.arrived[segment.item];
  if (threadIdx.x == 0) {
    __threadfence();
    shared.is_last = atomicAdd(arrived, 1) == parts - 1;
    __threadfence();
    if (shared.is_last) *arrived = 0;
  }
  __syncthreads();
  if (!shared.is_last) return;
  const int of_first = segment.first == division.Begin(first_block) ? 0 : 1;
  const auto part = [&](int p) -> const Partial<kDim>& {
    return partials[(first_block + p) * kPartialsPerBlock + (p == 0 ? of_first : 0)];
  };
  for (int x = threadIdx.x; x < call.group * kDim; x += kThreads) {
    const int head = x / kDim;
    const int c = x % kDim;
    const Part tail = TailPart<kDim>(shared.tails, head, c);
    const Part total = AddUp(parts, [&](int p) {
      const Partial<kDim>& from = part(p);
      return Part{__ldcg(&from.max[head]), __ldcg(&from.sum[head]), __ldcg(&from.out[head][c])};
    });
    WriteOut(call, row, first_column + x, Result(total, tail));
  }
}

template <int kDim>
__global__ void __launch_bounds__(kThreads, BlocksPerMultiprocessor<kDim>())
    Attend(const __grid_constant__ Arguments arguments) {
  __shared__ Shared<kDim> shared;
  const DecodeAttention& call = arguments.call;
  LetNextKernelStart();
  Division division;
  const Start start = FindStart(arguments, &division);
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const bool has_work = blockIdx.x < division.blocks;
  int64_t at = has_work ? division.Begin(blockIdx.x) : 0;
  const int64_t end = has_work ? division.Begin(blockIdx.x + 1) : 0;
  Segment segment = {.item = start.item, .first = start.first};
  bool has_waited = false;
  while (at < end) {
    const int row = segment.item / call.kv_heads;
    const int kv_head = segment.item % call.kv_heads;
    const int budget = arguments.Budget(segment.item);
    segment.tiles = TilesOf(budget);
    segment.begin = static_cast<int>(at - segment.first);
    segment.end = static_cast<int>(min(int64_t{segment.tiles}, end - segment.first));
    const int context = call.contexts[row];
    const bool is_dense = budget == context || call.sliding_window > 0;
    const int first = is_dense ? context - budget : 0;  // of those attended to
    const Tokens tokens = {.list = is_dense
                                       ? reinterpret_cast<const uint32_t*>(call.block_tables) +
                                             int64_t{call.sequences[row]} * call.max_blocks
                                       : call.selected + int64_t{segment.item} * call.max_selected,
                           .is_dense = is_dense,
                           .last = first + budget - 1,
                           .block_shift = __ffs(call.block_tokens) - 1,
                           .kv_heads = static_cast<uint32_t>(call.kv_heads),
                           .kv_head = static_cast<uint32_t>(kv_head)};
    const float* const queries =
        call.queries + call.query_rows[row] * call.query_stride + kv_head * call.group * kDim;
    const float* const tails = arguments.Tails(segment.item);
    // What the kernel before may have written is read from here on.
    if (!has_waited) WaitForPreviousKernel();
    has_waited = true;
    int index = first + (segment.begin + warp) * kTile + lane % kTile;
    uint32_t entry = tokens.Entry(index);
    __syncthreads();
    if (threadIdx.x == 0) shared.tails = tails;
    ArrangeQueries<kDim>(queries, call, shared);
    __syncthreads();
    State<kDim> state;
    for (int tile = segment.begin + warp; tile < segment.end; tile += kWarps) {
      index += kWarps * kTile;
      const uint32_t next = tokens.Entry(index);
      AttendTile<kDim>(call.kv, entry, budget - tile * kTile, arguments.cap, shared, state);
      entry = next;
    }
    ShareState<kDim>(state, call.group, shared);
    __syncthreads();
    Finish<kDim>(arguments, segment, division, shared);
    at = segment.first + segment.end;
    segment.first += segment.tiles;
    ++segment.item;
  }
  // A kernel is over when all its blocks are, which then also have waited for the one before.
  if (!has_waited) WaitForPreviousKernel();
}

template <int kDim>
int Blocks() {
  return CurrentDeviceTraits().multiprocessors * BlocksPerMultiprocessor<kDim>();
}

template <int kDim>
int64_t PartialFloats() {
  return Blocks<kDim>() * kPartialsPerBlock *
         static_cast<int64_t>(sizeof(Partial<kDim>) / sizeof(float));
}

template <int kDim>
cudaError_t Launch(const Arguments& arguments, cudaStream_t stream) {
  const LaunchShape shape = {.blocks = Blocks<kDim>(), .threads = kThreads};
  return LaunchEarly(Attend<kDim>, shape, CurrentDeviceTraits().capability_major, stream,
                     arguments);
}

}  // namespace

int64_t AttendPartialFloats(int head_dim) {
  return WithHeadSize(head_dim, [](auto dim) { return PartialFloats<dim.value>(); });
}

cudaError_t LaunchAttend(const DecodeAttention& call, const AttendScratch& scratch,
                         cudaStream_t stream) {
  const Arguments arguments = {call, CopyBudgetWeights(call), CopyTailWeights(call),
                               ScoreCap(call.soft_cap), scratch};
  return WithHeadSize(call.head_dim,
                      [&](auto dim) { return Launch<dim.value>(arguments, stream); });
}

}  // namespace winnow::cuda
