#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/budgets.cuh"
#include "kernels/cuda/decode_kernels.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/math.cuh"
#include "kernels/cuda/mma.cuh"

namespace winnow::cuda {
namespace {

// The tokens that one KV head of one row attends to are cut into tiles of kTile. The tiles of all
// heads form one list, of which every block takes an equal part, however long the heads are: so a
// batch of mixed lengths and a single long sequence both fill the device evenly. Where a head's
// tiles fall to several blocks, each leaves a partial result, and the last to arrive adds them up.
//
// A warp takes a tile straight from memory into the operands of matrix instructions. The heads of
// the group are rows 0 to 7 of the first operand; rows 8 to 15 hold what rounding to 16 bits took
// from them, and so with the softmax's weights: the products are as good as in fp32.

constexpr int kTile = 16;
constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
constexpr int kBlocksPerMultiprocessor = 3;
constexpr int kMinTilesPerBlock = kWarps;

struct Arguments {
  DecodeAttention call;
  BudgetWeights weights;
  AttendScratch scratch;

  // Of a KV head of a row, `item` = row kv_heads + kv_head.
  __device__ int Budget(int item) const {
    return BudgetOf(call, weights, item / call.kv_heads, item % call.kv_heads);
  }
};

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

__device__ int TilesOf(int budget) { return (budget + kTile - 1) / kTile; }

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
__device__ int64_t PrefixSum(int64_t value, int64_t* total) {
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

__device__ Start FindStart(const Arguments& arguments, Division* division) {
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

__device__ uint4 LoadOnce(const std::byte* address) {
  uint4 value;
  asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "l"(address));
  return value;
}

// Where the tokens of a head's tiles lie.
struct Tokens {
  const uint32_t* selected;  // null if dense
  const int32_t* block_table;
  int count;
  int block_shift;
  uint32_t kv_heads;
  uint32_t kv_head;

  // Of token `index` of those attended to: its entry as of DecodeAttention::selected.
  __device__ uint32_t Entry(int index) const {
    index = min(index, count - 1);
    if (selected != nullptr) return selected[index];
    const auto block = static_cast<uint32_t>(block_table[index >> block_shift]);
    const auto slot = static_cast<uint32_t>(index) & ((1u << block_shift) - 1);
    return ((block * kv_heads + kv_head) << block_shift) + slot;
  }
};

// A warp's softmax state: of head lane / 4.
template <int kDim>
struct State {
  float max = -INFINITY;
  float sum = 0;                // over the tokens that this lane's scores are of
  float out[kDim / 8][4] = {};  // as MMA results, whose two rows are to be added
};

template <typename T, int kDim>
struct Shared {
  static constexpr int kSteps = kDim / 16;
  static constexpr int kPaddedDim = kDim + 4;
  uint4 queries[kSteps][32];  // first operands
  float max[kWarps][kMaxGroup];
  float sum[kWarps][kMaxGroup];
  float out[kWarps][kMaxGroup][kPaddedDim];
  bool is_last;
};

// Lane 4 i + j reads 16 bytes of token i's key, numbers 8 j on of every 32: so these, in the order
// in which they lie, are rows 2 j, 2 j + 1, 2 j + 8, 2 j + 9 of two matrix steps. Queries are
// arranged alike, scaled to scores in units of log 2.
template <typename T, int kDim>
__device__ void ArrangeQueries(const float* queries, int group, Shared<T, kDim>& shared) {
  const float scale = kLog2e / sqrtf(static_cast<float>(kDim));
  for (int i = threadIdx.x; i < Shared<T, kDim>::kSteps * 32; i += kThreads) {
    const int step = i / 32;
    const int head = i % 32 / 4;
    uint4 operand = {};
    if (head < group) {
      const float* q = queries + head * kDim + step / 2 * 32 + i % 4 * 8 + step % 2 * 4;
      Split<T>(q[0] * scale, q[1] * scale, &operand.x, &operand.y);
      Split<T>(q[2] * scale, q[3] * scale, &operand.z, &operand.w);
    }
    shared.queries[step][i % 32] = operand;
  }
}

template <typename T, int kDim>
__device__ void AttendTile(const std::byte* kv, uint32_t entry, int valid,
                           const Shared<T, kDim>& shared, State<kDim>& state) {
  const int i = threadIdx.x % 32 / 4;
  const int j = threadIdx.x % 4;
  constexpr int kTokenBytes = 2 * kDim * sizeof(T);
  constexpr int kKeyLoads = kDim / 32;
  constexpr int kValueLoads = kDim / 64;
  const auto token = [&](int index) {
    return kv + int64_t{__shfl_sync(~0u, entry, index)} * kTokenBytes;
  };
  uint4 keys[2][kKeyLoads];
  for (int n = 0; n < 2; ++n) {
    const std::byte* key = token(8 * n + i) + 16 * j;
    for (int c = 0; c < kKeyLoads; ++c) keys[n][c] = LoadOnce(key + 64 * c);
  }
  uint4 values[4][kValueLoads];
  for (int n = 0; n < 4; ++n) {
    const std::byte* value = token(2 * j + n % 2 + n / 2 * 8) + kTokenBytes / 2 + 16 * i;
    for (int c = 0; c < kValueLoads; ++c) values[n][c] = LoadOnce(value + 128 * c);
  }

  float scores[2][4] = {};
  for (int c = 0; c < kKeyLoads; ++c) {
    const uint4 even = shared.queries[2 * c][threadIdx.x % 32];
    const uint4 odd = shared.queries[2 * c + 1][threadIdx.x % 32];
    for (int n = 0; n < 2; ++n) {
      Mma<T>(scores[n], {even.x, even.y, even.z, even.w}, keys[n][c].x, keys[n][c].y);
      Mma<T>(scores[n], {odd.x, odd.y, odd.z, odd.w}, keys[n][c].z, keys[n][c].w);
    }
  }
  float score[4];  // of tokens 2 j, 2 j + 1, 2 j + 8, 2 j + 9
  float max = state.max;
  for (int n = 0; n < 4; ++n) {
    score[n] = scores[n / 2][n % 2] + scores[n / 2][2 + n % 2];
    if (2 * j + n % 2 + n / 2 * 8 >= valid) score[n] = -INFINITY;
    max = fmaxf(max, score[n]);
  }
  max = fmaxf(max, __shfl_xor_sync(~0u, max, 1));
  max = fmaxf(max, __shfl_xor_sync(~0u, max, 2));
  if (__any_sync(~0u, max > state.max)) {
    const float keep = Exp2(state.max - max);
    state.sum *= keep;
    for (auto& out : state.out) {
      for (float& x : out) x *= keep;
    }
    state.max = max;
  }
  for (float& s : score) {
    s = Exp2(s - max);
    state.sum += s;
  }
  uint32_t weights[4];
  Split<T>(score[0], score[1], &weights[0], &weights[1]);
  Split<T>(score[2], score[3], &weights[2], &weights[3]);
  for (int c = 0; c < kValueLoads; ++c) {
    for (int e = 0; e < 8; ++e) {
      const auto number = [&](int n) {
        const uint4& v = values[n][c];
        return e < 2 ? v.x : e < 4 ? v.y : e < 6 ? v.z : v.w;
      };
      const uint32_t halves = e % 2 == 0 ? 0x5410 : 0x7632;
      Mma<T>(state.out[8 * c + e], weights, __byte_perm(number(0), number(1), halves),
             __byte_perm(number(2), number(3), halves));
    }
  }
}

// Result `e` of matrix column c of lane 4 i + j belongs to head i, numbers 64 c + 16 j + e and 8
// more.
template <typename T, int kDim>
__device__ void ShareState(State<kDim>& state, int group, Shared<T, kDim>& shared) {
  const int warp = threadIdx.x / 32;
  const int head = threadIdx.x % 32 / 4;
  const int j = threadIdx.x % 4;
  state.sum += __shfl_xor_sync(~0u, state.sum, 1);
  state.sum += __shfl_xor_sync(~0u, state.sum, 2);
  if (head >= group) return;
  if (j == 0) {
    shared.max[warp][head] = state.max;
    shared.sum[warp][head] = state.sum;
  }
  for (int c = 0; c < kDim / 64; ++c) {
    for (int half = 0; half < 2; ++half) {
      float* out = &shared.out[warp][head][64 * c + 16 * j + 8 * half];
      for (int e = 0; e < 8; ++e) {
        const auto& x = state.out[8 * c + e];
        out[e] = x[half] + x[2 + half];
      }
    }
  }
}

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

// Adds the warps' results up; then, if other blocks hold parts of the head, leaves the sum to the
// last of them.
template <typename T, int kDim>
__device__ void Finish(const Arguments& arguments, const Segment& segment, const Division& division,
                       Shared<T, kDim>& shared) {
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
    const Part total = AddUp(kWarps, [&](int w) {
      return Part{shared.max[w][head], shared.sum[w][head], shared.out[w][head][c]};
    });
    if (is_whole) {
      WriteOut(call, row, first_column + x, total.out / total.sum);
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
    const Part total = AddUp(parts, [&](int p) {
      const Partial<kDim>& from = part(p);
      return Part{__ldcg(&from.max[head]), __ldcg(&from.sum[head]), __ldcg(&from.out[head][c])};
    });
    WriteOut(call, row, first_column + x, total.out / total.sum);
  }
}

template <typename T, int kDim>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
    Attend(const __grid_constant__ Arguments arguments) {
  __shared__ Shared<T, kDim> shared;
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
    const bool is_dense = budget == call.contexts[row];
    const Tokens tokens = {
        .selected = is_dense ? nullptr : call.selected + int64_t{segment.item} * call.max_selected,
        .block_table = call.block_tables + int64_t{call.sequences[row]} * call.max_blocks,
        .count = budget,
        .block_shift = __ffs(call.block_tokens) - 1,
        .kv_heads = static_cast<uint32_t>(call.kv_heads),
        .kv_head = static_cast<uint32_t>(kv_head)};
    const float* const queries =
        call.queries + call.query_rows[row] * call.query_stride + kv_head * call.group * kDim;
    // What the kernel before may have written is read from here on.
    if (!has_waited) WaitForPreviousKernel();
    has_waited = true;
    uint32_t entry = tokens.Entry((segment.begin + warp) * kTile + lane % kTile);
    __syncthreads();
    ArrangeQueries<T, kDim>(queries, call.group, shared);
    __syncthreads();
    State<kDim> state;
    for (int tile = segment.begin + warp; tile < segment.end; tile += kWarps) {
      const uint32_t next = tokens.Entry((tile + kWarps) * kTile + lane % kTile);
      AttendTile<T, kDim>(call.kv, entry, budget - tile * kTile, shared, state);
      entry = next;
    }
    ShareState<T, kDim>(state, call.group, shared);
    __syncthreads();
    Finish<T, kDim>(arguments, segment, division, shared);
    at = segment.first + segment.end;
    segment.first += segment.tiles;
    ++segment.item;
  }
  // A kernel is over when all its blocks are, which then also have waited for the one before.
  if (!has_waited) WaitForPreviousKernel();
}

int Blocks() { return CurrentDeviceTraits().multiprocessors * kBlocksPerMultiprocessor; }

template <typename T>
cudaError_t LaunchFor(const Arguments& arguments, cudaStream_t stream) {
  const LaunchShape shape = {.blocks = Blocks(), .threads = kThreads};
  return LaunchEarly(arguments.call.head_dim == 64 ? Attend<T, 64> : Attend<T, 128>, shape,
                     CurrentDeviceTraits().capability_major, stream, arguments);
}

}  // namespace

int64_t AttendPartialFloats(int head_dim) {
  const int64_t bytes = head_dim == 64 ? sizeof(Partial<64>) : sizeof(Partial<128>);
  return Blocks() * kPartialsPerBlock * bytes / static_cast<int64_t>(sizeof(float));
}

cudaError_t LaunchAttend(const DecodeAttention& call, const AttendScratch& scratch,
                         cudaStream_t stream) {
  const Arguments arguments = {call, CopyBudgetWeights(call), scratch};
  return call.kv_type == KvType::kF16 ? LaunchFor<__half>(arguments, stream)
                                      : LaunchFor<__nv_bfloat16>(arguments, stream);
}

}  // namespace winnow::cuda
