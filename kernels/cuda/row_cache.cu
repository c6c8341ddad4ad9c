#include <algorithm>
#include <cstdint>

#include "kernels/cuda/budgets.cuh"
#include "kernels/cuda/decode_kernels.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/row_cache.h"

namespace winnow::cuda {
namespace {

// Looking up and fetching are kernels of their own: no row may be given away before all that the
// step needs are marked. Lists of what is missing keep the order of positions, and the blocks of
// all heads go through theirs side by side: so they read the same part of the host's memory at a
// time, of which the device knows the addresses of some 2 GB by heart.

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kThreadEntries = 4;  // that a thread looks up
constexpr int kPartEntries = kThreads * kThreadEntries;
constexpr int kFetchThreads = 256;
constexpr int kFetchBlocks = 64;  // or one for each list, where there are more
constexpr int kFetchWarps = kFetchThreads / 32;
constexpr int kWarpRows = 8;  // that a warp copies at once, which are chunks for whole warps
constexpr int kChunkBytes = 16;
constexpr int kLaneChunks = 8;  // that a lane has on the way
constexpr uint32_t kNone = 0;   // no entry: 0 is one of the device's, which has no copies

// In front of the arrays in RowCache::memory.
struct Header {
  RowCacheCounts counts;
  uint32_t step;               // of calls before
  uint32_t hand[kMaxKvHeads];  // how far the clocks' hands have come
};
constexpr int64_t kHeaderBytes = 1024;
static_assert(sizeof(Header) <= kHeaderBytes);

// The step that used a copy last, shifted by one; in the lowest bit whether one has since the hand
// was there.
__device__ uint32_t UsedIn(uint32_t step) { return step << 1 | 1; }
__device__ uint32_t NewIn(uint32_t step) { return step << 1; }

struct View {
  Header* header;
  uint32_t* copy_of;    // [host entries]: entry, or kNone
  uint32_t* row_of;     // [copies' entries]: entry, or kNone
  uint32_t* used;       // [copies' entries]
  uint32_t first_host;  // entries
  uint32_t first_copy;
  uint32_t end;
  uint32_t head_rows;  // of copies of a KV head
  int kv_heads;
  int block_shift;

  // Of a KV head, its copies' entry number n.
  __device__ uint32_t Copy(int kv_head, uint32_t n) const {
    const uint32_t block = (n >> block_shift) * kv_heads + kv_head;
    return first_copy + (block << block_shift) + (n & ((1u << block_shift) - 1));
  }
};

View ViewOf(const RowCache& cache, int kv_heads, int block_tokens) {
  const auto block_entries = static_cast<uint32_t>(kv_heads * block_tokens);
  View view;
  view.first_host = cache.first_host_block * block_entries;
  view.first_copy = view.first_host + cache.host_blocks * block_entries;
  view.end = view.first_copy + cache.copy_blocks * block_entries;
  view.header = reinterpret_cast<Header*>(cache.memory);
  view.copy_of = reinterpret_cast<uint32_t*>(cache.memory + kHeaderBytes);
  view.row_of = view.copy_of + (view.first_copy - view.first_host);
  view.used = view.row_of + (view.end - view.first_copy);
  view.head_rows = static_cast<uint32_t>(cache.copy_blocks * block_tokens);
  view.kv_heads = kv_heads;
  view.block_shift = 0;
  while (1 << view.block_shift < block_tokens) ++view.block_shift;
  return view;
}

constexpr int64_t kDoneBytes = 256;  // of scratch, in front
int PartsOf(int max_selected) { return (max_selected + kPartEntries - 1) / kPartEntries; }

struct Arguments {
  DecodeAttention call;
  BudgetWeights weights;
  View view;
  int parts;         // of a list
  uint32_t* counts;  // [rows, kv_heads, parts] of what is missing
  uint32_t* missed;  // [rows, kv_heads, parts, kPartEntries] indices in the list
  int32_t* done;     // blocks that have fetched
};

// Adds what the warp's lanes have.
__device__ void AddUp(uint32_t of_lane, uint64_t* sum) {
  const uint32_t of_warp = __reduce_add_sync(~0u, of_lane);
  if (threadIdx.x % 32 != 0 || of_warp == 0) return;
  atomicAdd(reinterpret_cast<unsigned long long*>(sum), static_cast<unsigned long long>(of_warp));
}

// Ranks the block's threads for which `is_one`, and counts them. `of_warp` [warps] is shared.
template <int kOfBlock>
__device__ int RankInBlock(bool is_one, uint32_t* of_warp, int* count) {
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const uint32_t those = __ballot_sync(~0u, is_one);
  __syncthreads();  // what was there has been read
  if (lane == 0) of_warp[warp] = __popc(those);
  __syncthreads();
  int before = 0;
  *count = 0;
#pragma unroll
  for (int w = 0; w < kOfBlock; ++w) {
    if (w < warp) before += of_warp[w];
    *count += of_warp[w];
  }
  return before + __popc(those & ((1u << lane) - 1));
}

// Marks and names the copies that there are of a part of a list; lists what has none.
__global__ void __launch_bounds__(kThreads) LookUp(const __grid_constant__ Arguments arguments) {
  __shared__ uint32_t of_warp[kWarps];
  const DecodeAttention& call = arguments.call;
  const View& view = arguments.view;
  LetNextKernelStart();
  const int item = blockIdx.x / arguments.parts;
  const int row = item / call.kv_heads;
  const int budget = BudgetOf(call, arguments.weights, row, item % call.kv_heads);
  const int count = budget < call.contexts[row] ? budget : 0;
  const int first = blockIdx.x % arguments.parts * kPartEntries;
  uint32_t* const list = call.selected + int64_t{item} * call.max_selected;
  uint32_t* const missed = arguments.missed + int64_t{blockIdx.x} * kPartEntries;
  WaitForPreviousKernel();
  const uint32_t step = view.header->step + 1;
  uint32_t copies[kThreadEntries];
  bool of_host[kThreadEntries];
  uint32_t rows = 0;
#pragma unroll
  for (int n = 0; n < kThreadEntries; ++n) {
    const int i = first + n * kThreads + threadIdx.x;
    const uint32_t entry = i < count ? list[i] : 0;
    of_host[n] = entry >= view.first_host;
    copies[n] = of_host[n] ? view.copy_of[entry - view.first_host] : kNone;
    rows += of_host[n];
  }
  int missing = 0;
#pragma unroll
  for (int n = 0; n < kThreadEntries; ++n) {
    const int i = first + n * kThreads + threadIdx.x;
    if (copies[n] != kNone) {
      view.used[copies[n] - view.first_copy] = UsedIn(step);
      list[i] = copies[n];
    }
    const bool is_missing = of_host[n] && copies[n] == kNone;
    int more;
    const int rank = RankInBlock<kWarps>(is_missing, of_warp, &more);
    if (is_missing) missed[missing + rank] = i;
    missing += more;
  }
  if (threadIdx.x == 0) arguments.counts[blockIdx.x] = missing;
  AddUp(rows, &view.header->counts.selected);
}

// Leaves the entries of up to `wanted` rows of the head's copies in `claimed`, which are the
// block's from now on; returns how many there are: fewer if the step needs all the others.
__device__ int Claim(const View& view, int kv_head, uint32_t step, int wanted, uint32_t* claimed,
                     uint32_t* of_warp) {
  __shared__ uint32_t hand;
  int found = 0;
  // Once around clears what has been used, twice finds it.
  for (uint32_t passed = 0; found < wanted && passed < 2 * view.head_rows;) {
    const int window = wanted - found;  // no more, for what the hand passes by is not used
    __syncthreads();
    if (threadIdx.x == 0) hand = atomicAdd(&view.header->hand[kv_head], window);
    __syncthreads();
    const uint32_t copy = view.Copy(kv_head, (hand + threadIdx.x) % view.head_rows);
    uint32_t* const used = &view.used[copy - view.first_copy];
    bool is_free = false;
    uint32_t state = 0;
    if (static_cast<int>(threadIdx.x) < window) {
      state = *reinterpret_cast<volatile uint32_t*>(used);
      is_free = state >> 1 != step && (state & 1) == 0;
      if (state >> 1 != step && !is_free) atomicCAS(used, state, state & ~1u);
    }
    // Another block may have been faster, or a thread where the window is wider than all there is.
    const bool is_mine = is_free && atomicCAS(used, state, NewIn(step)) == state;
    int count;
    const int place = RankInBlock<kFetchWarps>(is_mine, of_warp, &count);
    if (is_mine) claimed[found + place] = copy;
    found += count;
    passed += window;
  }
  __syncthreads();
  return found;
}

// Copies rows from[i] to to[i], a warp eight at a time.
__device__ void CopyRows(uint4* rows, int row_chunks, const uint32_t* from, const uint32_t* to,
                         int count) {
  const int lane = threadIdx.x % 32;
  for (int begin = threadIdx.x / 32 * kWarpRows; begin < count; begin += kFetchWarps * kWarpRows) {
    const int chunks = min(kWarpRows, count - begin) * row_chunks;
    for (int first = lane; first < chunks; first += 32 * kLaneChunks) {
      uint4 held[kLaneChunks];
#pragma unroll
      for (int n = 0; n < kLaneChunks; ++n) {
        const int chunk = first + 32 * n;
        if (chunk >= chunks) continue;
        held[n] = rows[int64_t{from[begin + chunk / row_chunks]} * row_chunks + chunk % row_chunks];
      }
#pragma unroll
      for (int n = 0; n < kLaneChunks; ++n) {
        const int chunk = first + 32 * n;
        if (chunk >= chunks) continue;
        rows[int64_t{to[begin + chunk / row_chunks]} * row_chunks + chunk % row_chunks] = held[n];
      }
    }
  }
}

// Makes copies of what a list misses, of which each of a few blocks has a part. A row that two
// lists miss gets two, of which the last one is found again.
__global__ void __launch_bounds__(kFetchThreads)
    Fetch(const __grid_constant__ Arguments arguments) {
  __shared__ uint32_t of_warp[kFetchWarps];
  __shared__ uint32_t from[kFetchThreads];
  __shared__ uint32_t to[kFetchThreads];
  const DecodeAttention& call = arguments.call;
  const View& view = arguments.view;
  LetNextKernelStart();
  WaitForPreviousKernel();
  const uint32_t step = *reinterpret_cast<volatile uint32_t*>(&view.header->step) + 1;
  const int blocks = gridDim.x / (call.rows * call.kv_heads);  // of a list
  const int item = blockIdx.x / blocks;
  const int block = blockIdx.x % blocks;
  uint32_t* const list = call.selected + int64_t{item} * call.max_selected;
  const uint32_t* const counts = arguments.counts + int64_t{item} * arguments.parts;
  const uint32_t* const missed = arguments.missed + int64_t{item} * arguments.parts * kPartEntries;
  // Where the list's n-th missing row stands.
  const auto missing = [&](uint32_t n) {
    int part = 0;
    for (; n >= counts[part]; ++part) n -= counts[part];
    return missed[part * kPartEntries + n];
  };
  int64_t count = 0;
  for (int part = 0; part < arguments.parts; ++part) count += counts[part];
  const auto first = static_cast<int>(count * block / blocks);
  const auto last = static_cast<int>(count * (block + 1) / blocks);
  uint32_t fetched = 0;
  for (int begin = first; begin < last; begin += kFetchThreads) {
    const int found =
        Claim(view, item % call.kv_heads, step, min(last - begin, kFetchThreads), to, of_warp);
    if (static_cast<int>(threadIdx.x) < found) {
      const uint32_t index = missing(begin + threadIdx.x);
      const uint32_t entry = list[index];
      const uint32_t copy = to[threadIdx.x];
      const uint32_t old = view.row_of[copy - view.first_copy];
      if (old != kNone) atomicCAS(&view.copy_of[old - view.first_host], copy, kNone);
      view.row_of[copy - view.first_copy] = entry;
      atomicExch(&view.copy_of[entry - view.first_host], copy);
      list[index] = copy;
      from[threadIdx.x] = entry;
    }
    __syncthreads();
    CopyRows(reinterpret_cast<uint4*>(const_cast<std::byte*>(call.kv)),
             2 * call.head_dim * static_cast<int>(sizeof(uint16_t)) / kChunkBytes, from, to, found);
    fetched += found;
  }
  if (threadIdx.x != 0) return;
  RowCacheCounts& sums = view.header->counts;
  const uint32_t direct = last - first - fetched;
  if (fetched > 0) atomicAdd(reinterpret_cast<unsigned long long*>(&sums.fetched), fetched);
  if (direct > 0) atomicAdd(reinterpret_cast<unsigned long long*>(&sums.direct), direct);
  // The last block leaves the step to the next call.
  if (atomicAdd(arguments.done, 1) < static_cast<int>(gridDim.x) - 1) return;
  *arguments.done = 0;
  view.header->step = step;
}

__global__ void Forget(View view, const int32_t* blocks, int block_tokens) {
  const auto block_entries = static_cast<uint32_t>(view.kv_heads * block_tokens);
  const uint32_t first = blocks[blockIdx.x] * block_entries - view.first_host;
  for (uint32_t i = threadIdx.x; i < block_entries; i += blockDim.x) {
    const uint32_t copy = view.copy_of[first + i];
    if (copy == kNone) continue;
    view.row_of[copy - view.first_copy] = kNone;
    view.copy_of[first + i] = kNone;
  }
}

}  // namespace

int64_t RowCacheBytes(const RowCache& cache, int kv_heads, int block_tokens) {
  const int64_t block_entries = int64_t{kv_heads} * block_tokens;
  const int64_t words = (int64_t{cache.host_blocks} + 2 * cache.copy_blocks) * block_entries;
  return kHeaderBytes + words * static_cast<int64_t>(sizeof(uint32_t));
}

int64_t FetchScratchBytes(int rows, int kv_heads, int max_selected) {
  const int64_t parts = int64_t{rows} * kv_heads * PartsOf(max_selected);
  return kDoneBytes + parts * (1 + kPartEntries) * static_cast<int64_t>(sizeof(uint32_t));
}

const RowCacheCounts* CountsOf(const RowCache& cache) {
  return &reinterpret_cast<const Header*>(cache.memory)->counts;
}

cudaError_t LaunchFetchRows(const DecodeAttention& call, const RowCache& cache, std::byte* scratch,
                            cudaStream_t stream) {
  if (call.max_selected == 0 || cache.copy_blocks == 0) return cudaSuccess;
  const int parts = PartsOf(call.max_selected);
  const int items = call.rows * call.kv_heads;
  auto* const counts = reinterpret_cast<uint32_t*>(scratch + kDoneBytes);
  const Arguments arguments = {call,
                               CopyBudgetWeights(call),
                               ViewOf(cache, call.kv_heads, call.block_tokens),
                               parts,
                               counts,
                               counts + int64_t{items} * parts,
                               reinterpret_cast<int32_t*>(scratch)};
  const int capability = CurrentDeviceTraits().capability_major;
  const cudaError_t error = LaunchEarly(LookUp, {.blocks = items * parts, .threads = kThreads},
                                        capability, stream, arguments);
  if (error != cudaSuccess) return error;
  const int blocks = items * std::max(1, kFetchBlocks / items);
  return LaunchEarly(Fetch, {.blocks = blocks, .threads = kFetchThreads}, capability, stream,
                     arguments);
}

cudaError_t LaunchForgetRows(const RowCache& cache, int kv_heads, int block_tokens,
                             const int32_t* blocks, int count, cudaStream_t stream) {
  if (count == 0 || cache.copy_blocks == 0) return cudaSuccess;
  Forget<<<count, kThreads, 0, stream>>>(ViewOf(cache, kv_heads, block_tokens), blocks,
                                         block_tokens);
  return cudaGetLastError();
}

}  // namespace winnow::cuda
