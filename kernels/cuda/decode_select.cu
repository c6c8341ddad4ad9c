#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <climits>
#include <cstdint>
#include <type_traits>

#include "kernels/cuda/budgets.cuh"
#include "kernels/cuda/cluster.cuh"
#include "kernels/cuda/decode_kernels.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/math.cuh"
#include "kernels/cuda/token_scorers.cuh"

namespace winnow::cuda {
namespace {

// One cluster of blocks chooses the tokens of one KV head of one row. Every warp scores a range of
// the context and keeps a key for each token in shared memory: an integer that is ordered as the
// scores are. Histograms of ever narrower ranges of keys, summed over the cluster, find the k-th
// largest one; then every warp writes what it has of the chosen tokens, at the place that counts of
// the warps before it give. All this is bound by the number of instructions: what is done for every
// token is kept to a minimum, and each warp has many. Blocks have 8 to 32 warps; what does not grow
// with the context is done by the first 8.
//
// A group of one needs no softmax, which would not change the order. Others are padded to a power
// of two by heads that weigh nothing.

constexpr int kMinWarps = kFirstThreads / 32;
constexpr int kMaxWarps = 32;
constexpr int kMaxCluster = 8;
constexpr int kStepTokens = 32 * kLaneTokens;
constexpr int kBinBits = 11;
constexpr int kBins = 1 << kBinBits;
constexpr int kThreadBins = kBins / kFirstThreads;
// Shared memory of a block for anything but keys.
constexpr int kOtherSharedBytes = 24 * 1024;

struct Arguments {
  DecodeAttention call;
  BudgetWeights weights;
  uint32_t* spilled_keys;  // [rows, kv_heads, warps warp tokens]; null: in shared memory
};

__host__ __device__ int CeilDivide(int a, int b) { return (a + b - 1) / b; }
// Tokens of each of a head's warps: whole steps.
__host__ __device__ int WarpTokens(int context, int warps) {
  return CeilDivide(CeilDivide(context, warps), kStepTokens) * kStepTokens;
}

__device__ int BlockWarps() { return static_cast<int>(blockDim.x / 32); }

// Values of every thread of the cluster, folded. Used once: no thread may write it while others
// still read.
struct ClusterFold {
  float of_warp[kMaxWarps][kMaxGroup];
  float of_block[kMaxGroup];

  template <int kCount, typename Fold>
  __device__ void Run(float (&values)[kCount], float neutral, const Fold& fold) {
    const int lane = threadIdx.x % 32;
    const int warp = threadIdx.x / 32;
    const auto fold_lanes = [&](float value) {
      for (int step = 16; step > 0; step /= 2) {
        value = fold(value, __shfl_xor_sync(~0u, value, step));
      }
      return value;
    };
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const float value = fold_lanes(values[i]);
      if (lane == 0) of_warp[warp][i] = value;
    }
    __syncthreads();
    if (warp < kCount) {
      const float value = fold_lanes(lane < BlockWarps() ? of_warp[lane][warp] : neutral);
      if (lane == 0) of_block[warp] = value;
    }
    SyncCluster();
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      values[i] = neutral;
      for (int rank = 0; rank < ClusterSize(); ++rank) {
        values[i] = fold(values[i], *OfRank(&of_block[i], rank));
      }
    }
  }
};

// How far keys of the range are shifted to be numbers of bins.
__device__ int Shift(const KeyRange& range) {
  return max(0, 32 - __clz(range.largest - range.least) - kBinBits);
}

struct Chosen {
  int larger;
  int equal;
};

struct Shared {
  uint32_t histograms[2][kBins];
  GroupQueries queries;
  float factor[kMaxGroup];  // that makes a head's weights its part of their mean
  ClusterFold max;
  ClusterFold sum;
  int of_warp[kMinWarps];
  struct {
    uint32_t bin;
    int count;
    int wanted;
  } found;
  Chosen chosen[kMaxWarps];
};

// The tokens that a warp scores, and their keys.
struct Range {
  int begin;
  int end;
  int free_begin;  // of the tokens that a choice is made among, in the whole context
  int free_end;
  uint32_t* keys;  // of the tokens from `begin` on, up to whole steps

  __device__ int Steps() const { return end > begin ? CeilDivide(end - begin, kStepTokens) : 0; }
  __device__ uint4& LaneKeys(int step) const {
    return reinterpret_cast<uint4*>(keys)[step * 32 + threadIdx.x % 32];
  }
  __device__ int LanePosition(int step) const {
    return begin + step * kStepTokens + threadIdx.x % 32 * kLaneTokens;
  }
  // Whether the warp has the steps [step, step + count) and there is a choice among all their
  // tokens.
  __device__ bool AreFree(int step, int count) const {
    const int position = begin + step * kStepTokens;
    return step + count <= Steps() && position >= free_begin &&
           position + count * kStepTokens <= free_end;
  }
};

// Calls body(step, labels, are_free) with the labels of the lane's four tokens of each step;
// decltype(are_free)::value implies Range::AreFree.
template <typename Scorer, typename Body>
__device__ void ForLabels(const Scorer& scorer, const Range& range, const Body& body) {
  constexpr int kUnroll = Scorer::kUnroll;
  for (int step = 0; step < range.Steps(); step += kUnroll) {
    typename Scorer::Labels labels[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) labels[u] = scorer.Load(range.LanePosition(step + u));
    if (range.AreFree(step, kUnroll)) {
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) body(step + u, labels[u], std::true_type());
    } else {
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        if (step + u < range.Steps()) body(step + u, labels[u], std::false_type());
      }
    }
  }
}

// Whether to leave out heads from h on, which only pad the group. Asked of large groups alone:
// small ones are faster without the branch, but large ones without it take too many registers.
template <int kHeads>
__device__ bool EndsGroup(int h, const DecodeHead& head) {
  return kHeads > 4 && h >= head.call.group;
}

// Sets the biases by the largest scores, where they are not known beforehand.
template <int kHeads, typename Scorer>
__device__ void FindBias(const Scorer& scorer, const DecodeHead& head, const Range& range,
                         Shared& shared) {
  float max[kHeads];
#pragma unroll
  for (int h = 0; h < kHeads; ++h) max[h] = -INFINITY;
  ForLabels(scorer, range, [&](int step, const auto& labels, auto) {
    const int valid = head.context - range.LanePosition(step);
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      if (EndsGroup<kHeads>(h, head)) break;
      typename Scorer::Score scores[kLaneTokens];
      scorer.ScoreTokens(labels, h, Scorer::kFloatStart, scores);
#pragma unroll
      for (int t = 0; t < kLaneTokens; ++t) {
        if (t < valid) max[h] = fmaxf(max[h], Scorer::FloatOf(scores[t]));
      }
    }
  });
  shared.max.Run(max, -INFINITY, [](float a, float b) { return fmaxf(a, b); });
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    if (threadIdx.x == h)
      shared.queries.bias[h] = -(max[h] - Scorer::kFloatZero) * shared.queries.scale[h];
  }
  __syncthreads();
}

// weights[t] = 2^(scale score + bias) of head h, but for a factor that all tokens share.
template <typename Scorer>
__device__ void WeighTokens(const Scorer& scorer, const typename Scorer::Labels& labels, int h,
                            const GroupQueries& queries, float (&weights)[kLaneTokens]) {
  typename Scorer::Score scores[kLaneTokens];
  scorer.ScoreTokens(labels, h, Scorer::kFloatStart, scores);
  const float scale = queries.scale[h];
  // Rounded, which is where the factor comes from.
  const float bias = queries.bias[h] - Scorer::kFloatZero * scale;
#pragma unroll
  for (int t = 0; t < kLaneTokens; ++t) {
    weights[t] = Exp2(fmaf(Scorer::FloatOf(scores[t]), scale, bias));
  }
}

// Sets the factors: 1 / the sum of each head's weights, and 0 for heads that pad the group. The
// mean of softmaxes is smaller by the group's size, which orders alike.
template <int kHeads, typename Scorer>
__device__ void FindFactors(const Scorer& scorer, const DecodeHead& head, const Range& range,
                            Shared& shared) {
  float sums[kHeads] = {};
  ForLabels(scorer, range, [&](int step, const auto& labels, auto are_free) {
    const int valid = head.context - range.LanePosition(step);
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      if (EndsGroup<kHeads>(h, head)) break;
      float weights[kLaneTokens];
      WeighTokens(scorer, labels, h, shared.queries, weights);
#pragma unroll
      for (int t = 0; t < kLaneTokens; ++t) {
        if (decltype(are_free)::value || t < valid) sums[h] += weights[t];
      }
    }
  });
  shared.sum.Run(sums, 0, [](float a, float b) { return a + b; });
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    if (threadIdx.x == h) shared.factor[h] = h < head.call.group ? 1 / sums[h] : 0;
  }
  __syncthreads();
}

// Sums of softmaxes are at most kMaxGroup. Where they differ by more than so many powers of two, a
// first histogram does not tell the smallest apart.
__device__ KeyRange WeightKeys() {
  return {__float_as_uint(1e-12f), __float_as_uint(2.0f * kMaxGroup)};
}

// Makes the keys of the warp's tokens, from softmax weights summed over the heads or, of one head,
// from scores, and counts them in the first histogram, which is empty. Returns the range that this
// covers, which takes smaller keys for its least one.
template <int kHeads, typename Scorer>
__device__ KeyRange MakeKeys(const Scorer& scorer, const DecodeHead& head, const Range& range,
                             Shared& shared) {
  if constexpr (kHeads > 1) {
    if (!scorer.template KnowsBias<kHeads>()) FindBias<kHeads>(scorer, head, range, shared);
    FindFactors<kHeads>(scorer, head, range, shared);
  }
  const KeyRange covered = kHeads == 1 ? scorer.Keys() : WeightKeys();
  const int shift = Shift(covered);
  uint32_t* const histogram = shared.histograms[0];
  ForLabels(scorer, range, [&](int step, const auto& labels, auto are_free) {
    uint32_t keys[kLaneTokens];
    if constexpr (kHeads == 1) {
      typename Scorer::Score scores[kLaneTokens];
      scorer.ScoreTokens(labels, 0, scorer.KeyStart(), scores);
#pragma unroll
      for (int t = 0; t < kLaneTokens; ++t) keys[t] = Scorer::KeyOf(scores[t]);
    } else {
      float sums[kLaneTokens] = {};
#pragma unroll
      for (int h = 0; h < kHeads; ++h) {
        if (EndsGroup<kHeads>(h, head)) break;
        float weights[kLaneTokens];
        WeighTokens(scorer, labels, h, shared.queries, weights);
        const float factor = shared.factor[h];
#pragma unroll
        for (int t = 0; t < kLaneTokens; ++t) sums[t] = fmaf(factor, weights[t], sums[t]);
      }
#pragma unroll
      for (int t = 0; t < kLaneTokens; ++t) {
        // At most that only where they are no numbers.
        keys[t] = min(__float_as_uint(sums[t]) + 1, covered.largest);
      }
    }
    const int position = range.LanePosition(step);
#pragma unroll
    for (int t = 0; t < kLaneTokens; ++t) {
      const int p = position + t;
      if (decltype(are_free)::value || (p >= range.free_begin && p < range.free_end)) {
        atomicAdd(&histogram[(max(keys[t], covered.least) - covered.least) >> shift], 1);
      } else {
        keys[t] = p < head.context ? kForced : kAbsent;
      }
    }
    range.LaneKeys(step) = {keys[0], keys[1], keys[2], keys[3]};
  });
  return covered;
}

// Of the counts in the cluster's histograms: the bin in which the `wanted`-th key from above lies,
// how many it holds and how many of these are wanted.
__device__ void FindBin(const uint32_t* histogram, int wanted, Shared& shared) {
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const bool is_first = threadIdx.x < kFirstThreads;
  // Thread t has the t-th bins from above.
  const int first_bin = kBins - kThreadBins * (static_cast<int>(threadIdx.x) + 1);
  uint32_t of_bin[kThreadBins] = {};
  int of_thread = 0;
  int sum = 0;
  if (is_first) {
#pragma unroll 4
    for (int rank = 0; rank < ClusterSize(); ++rank) {
      const auto* bins = reinterpret_cast<const uint4*>(OfRank(histogram + first_bin, rank));
#pragma unroll
      for (int i = 0; i < kThreadBins / 4; ++i) {
        const uint4 more = bins[i];
        of_bin[4 * i] += more.x;
        of_bin[4 * i + 1] += more.y;
        of_bin[4 * i + 2] += more.z;
        of_bin[4 * i + 3] += more.w;
      }
    }
#pragma unroll
    for (int i = 0; i < kThreadBins; ++i) of_thread += static_cast<int>(of_bin[i]);
    sum = of_thread;
    for (int step = 1; step < 32; step *= 2) {
      const int above = __shfl_up_sync(~0u, sum, step);
      if (lane >= step) sum += above;
    }
    if (lane == 31) shared.of_warp[warp] = sum;
  }
  __syncthreads();
  if (is_first) {
    sum -= of_thread;
    sum += __reduce_add_sync(~0u, lane < warp ? shared.of_warp[lane] : 0);
    if (sum < wanted && sum + of_thread >= wanted) {
#pragma unroll
      for (int i = kThreadBins - 1; i >= 0; --i) {
        const int count = static_cast<int>(of_bin[i]);
        if (sum < wanted && sum + count >= wanted) {
          shared.found = {static_cast<uint32_t>(first_bin + i), count, wanted - sum};
        }
        sum += count;
      }
    }
  }
  __syncthreads();
}

// Chosen are keys above `key`, and of those equal to it the first `ties`.
struct Threshold {
  uint32_t key;
  int ties;
};

// The `wanted`-th largest of the cluster's keys, which MakeKeys has counted.
__device__ Threshold FindThreshold(const Range& range, KeyRange covered, int wanted,
                                   Shared& shared) {
  SyncCluster();
  for (int round = 0;; ++round) {
    const int shift = Shift(covered);
    FindBin(shared.histograms[round % 2], wanted, shared);
    const auto [bin, in_bin, left] = shared.found;
    const bool has_smaller = round == 0 && bin == 0 && covered.least > kAbsent + 1;
    const uint32_t least = covered.least + (bin << shift);
    covered.largest = min(covered.largest, least + ((1u << shift) - 1));
    covered.least = has_smaller ? kAbsent + 1 : least;
    wanted = left;
    if (covered.least == covered.largest) return {covered.least, wanted};
    if (in_bin == wanted) return {covered.least - 1, 0};

    // The other blocks are done with what this histogram counted two rounds ago.
    uint32_t* const histogram = shared.histograms[(round + 1) % 2];
    for (int i = threadIdx.x; i < kBins; i += blockDim.x) histogram[i] = 0;
    __syncthreads();
    const int next_shift = Shift(covered);
    const uint32_t width = covered.largest - covered.least;
    for (int step = 0; step < range.Steps(); ++step) {
      const uint4 keys = range.LaneKeys(step);
      const uint32_t over[kLaneTokens] = {keys.x - covered.least, keys.y - covered.least,
                                          keys.z - covered.least, keys.w - covered.least};
      // Which is seldom.
      if (min(min(over[0], over[1]), min(over[2], over[3])) <= width) {
#pragma unroll
        for (int t = 0; t < kLaneTokens; ++t) {
          if (over[t] <= width) atomicAdd(&histogram[over[t] >> next_shift], 1);
        }
      }
    }
    SyncCluster();
  }
}

// Writes the warp's part of the chosen tokens, in order.
__device__ void WriteChosen(const DecodeHead& head, const Range& range, const Threshold& threshold,
                            uint32_t* selected, Shared& shared) {
  // Marks positions whose key equals the threshold.
  constexpr uint32_t kEqual = 1u << 31;
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const uint32_t lanes_before = (1u << lane) - 1;
  // Replaces the keys by the positions of those that may be chosen.
  int count = 0;
  for (int step = 0; step < range.Steps(); ++step) {
    const uint4 four = range.LaneKeys(step);
    const uint32_t keys[kLaneTokens] = {four.x, four.y, four.z, four.w};
    int index = count;
#pragma unroll
    for (int t = 0; t < kLaneTokens; ++t) {
      const uint32_t those = __ballot_sync(~0u, keys[t] >= threshold.key);
      index += __popc(those & lanes_before);
      count += __popc(those);
    }
    __syncwarp();  // all have read what some overwrite now
    const uint32_t position = range.LanePosition(step);
#pragma unroll
    for (int t = 0; t < kLaneTokens; ++t) {
      const uint32_t entry = (position + t) | (keys[t] == threshold.key ? kEqual : 0);
      if (keys[t] >= threshold.key) range.keys[index] = entry;
      index += keys[t] >= threshold.key;
    }
  }
  __syncwarp();
  Chosen mine = {};
  for (int i = lane; i < count; i += 32) mine.equal += range.keys[i] >> 31;
  mine.equal = __reduce_add_sync(~0u, mine.equal);
  mine.larger = count - mine.equal;
  if (lane == 0) shared.chosen[warp] = mine;
  SyncCluster();
  Chosen before = {};
  for (int rank = 0; rank <= ClusterRank(); ++rank) {
    if (lane < (rank < ClusterRank() ? BlockWarps() : warp)) {
      const Chosen* other = OfRank(&shared.chosen[lane], rank);
      before.larger += other->larger;
      before.equal += other->equal;
    }
  }
  before.larger = __reduce_add_sync(~0u, before.larger);
  before.equal = __reduce_add_sync(~0u, before.equal);

  constexpr int kUnroll = 2;  // so that the block table is asked for several entries at once
  for (int begin = 0; begin < count; begin += 32 * kUnroll) {
    uint32_t positions[kUnroll];
    uint32_t entries[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int i = begin + 32 * u + lane;
      positions[u] = i < count ? range.keys[i] : static_cast<uint32_t>(range.begin);
      entries[u] = head.Entry(static_cast<int>(positions[u] & ~kEqual));
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const bool is_equal = (positions[u] & kEqual) != 0;
      const uint32_t equals = __ballot_sync(~0u, is_equal);
      const int equal = before.equal + __popc(equals & lanes_before);
      const int larger = before.larger + __popc(~equals & lanes_before);
      if (begin + 32 * u + lane < count && (!is_equal || equal < threshold.ties)) {
        selected[larger + min(equal, threshold.ties)] = entries[u];
      }
      before.equal += __popc(equals);
      before.larger += 32 - __popc(equals);
    }
  }
}

// The choice of SelectionKind::kWindow.
__device__ void WriteWindow(const DecodeHead& head, int budget, uint32_t* selected) {
  const int threads = ClusterSize() * blockDim.x;
  for (int i = ClusterRank() * blockDim.x + threadIdx.x; i < budget; i += threads) {
    selected[i] = head.Entry(i < head.call.sinks ? i : head.context - budget + i);
  }
}

template <typename Scorer, int kHeads>
__global__ void __launch_bounds__(32 * kMaxWarps, 1)
    Select(const __grid_constant__ Arguments arguments) {
  extern __shared__ uint4 shared_keys[];
  __shared__ Shared shared;
  LetNextKernelStart();
  const DecodeAttention& call = arguments.call;
  const int cluster = ClusterSize();
  const int item = blockIdx.x / cluster;
  const DecodeHead head = HeadOf(call, item);
  const int row = item / call.kv_heads;
  const int budget = BudgetOf(call, arguments.weights, row, head.kv_head);
  const SelectionKind kind = call.selections[row].kind;
  uint32_t* const selected = call.selected + int64_t{item} * call.max_selected;
  // The whole cluster returns. Any block waits first: see the end of Attend.
  if (budget >= head.context || !Scorer::Serves(kind)) {
    WaitForPreviousKernel();
    if (budget < head.context && kind == SelectionKind::kWindow) {
      WriteWindow(head, budget, selected);
    }
    return;
  }

  const int warps = cluster * BlockWarps();
  const int warp_tokens = WarpTokens(head.context, warps);
  const int warp = threadIdx.x / 32;
  Range range;
  range.begin = (ClusterRank() * BlockWarps() + warp) * warp_tokens;
  range.end = min(head.context, range.begin + warp_tokens);
  range.free_begin = call.sinks;
  range.free_end = head.context - call.window;
  if (arguments.spilled_keys == nullptr) {
    range.keys = reinterpret_cast<uint32_t*>(shared_keys) + warp * warp_tokens;
  } else {
    range.keys = arguments.spilled_keys +
                 int64_t{item} * warps * WarpTokens(call.max_context, warps) + range.begin;
  }
  Scorer scorer(head, shared.queries);
  scorer.Prefetch(range.begin, range.end);
  for (int i = threadIdx.x; i < kBins; i += blockDim.x) shared.histograms[0][i] = 0;
  WaitForPreviousKernel();
  // The second histogram is not in use yet.
  static_assert(kHeads * kFirstThreads <= kBins);
  scorer.template PrepareQueries<kHeads>(reinterpret_cast<float*>(shared.histograms[1]));
  const KeyRange covered = MakeKeys<kHeads>(scorer, head, range, shared);
  const int wanted = budget - call.sinks - call.window;
  const Threshold threshold =
      wanted > 0 ? FindThreshold(range, covered, wanted, shared) : Threshold{kForced, INT_MAX};
  WriteChosen(head, range, threshold, selected, shared);
  SyncCluster();  // others may still read this block's counts
}

// Keys that a block can hold in shared memory.
int MaxSharedKeys() {
  return (CurrentDeviceTraits().block_shared_bytes - kOtherSharedBytes) /
         static_cast<int>(sizeof(uint32_t));
}

int MaxCluster() { return CurrentDeviceTraits().capability_major >= 9 ? kMaxCluster : 1; }

// How the warps that work on a head are arranged.
struct Team {
  int cluster = 1;
  int warps = kMinWarps;  // of a block

  // Of a block.
  int Keys(int context) const { return warps * WarpTokens(context, cluster * warps); }
};

// As many warps as fill the device, but none with less to do than is worth it. Blocks that work
// alone need not exchange histograms, so clusters are for a few long heads; theirs are small
// blocks, few enough for two places each: where some clusters find no room beside the others, all
// wait.
Team TeamFor(int heads, int max_context) {
  constexpr int kMinWarpTokens = 4 * kStepTokens;
  constexpr int kFullWarps = 24;  // of a multiprocessor
  constexpr int kClusterWarps = 16;
  const int multiprocessors = CurrentDeviceTraits().multiprocessors;
  const auto is_worth = [&](int warps) { return warps * kMinWarpTokens <= max_context; };
  Team team;
  const auto fits = [&](int blocks) { return blocks * team.Keys(max_context) <= MaxSharedKeys(); };
  while (team.warps < kMaxWarps && is_worth(2 * team.warps) &&
         (heads * team.warps < kFullWarps * multiprocessors || !fits(2))) {
    team.warps *= 2;
  }
  const bool is_enough = team.warps < kMaxWarps || 2 * heads > multiprocessors;
  if (MaxCluster() == 1 || (is_enough && fits(1))) return team;
  team.warps = kClusterWarps;
  while (team.cluster < MaxCluster() && is_worth(2 * team.cluster * team.warps) &&
         (2 * heads * team.cluster <= multiprocessors || !fits(1))) {
    team.cluster *= 2;
  }
  return team;
}

template <typename Scorer, int kHeads>
cudaError_t LaunchKernel(const Arguments& arguments, const Team& team, cudaStream_t stream) {
  const DecodeAttention& call = arguments.call;
  const LaunchShape shape = {
      .blocks = call.rows * call.kv_heads * team.cluster,
      .threads = 32 * team.warps,
      .cluster = team.cluster,
      .shared_bytes = arguments.spilled_keys != nullptr
                          ? 0
                          : team.Keys(call.max_context) * static_cast<int>(sizeof(uint32_t))};
  return LaunchEarly(Select<Scorer, kHeads>, shape, CurrentDeviceTraits().capability_major, stream,
                     arguments);
}

template <typename Scorer>
cudaError_t LaunchGroup(const Arguments& arguments, const Team& team, cudaStream_t stream) {
  switch (arguments.call.group) {
    case 1:
      return LaunchKernel<Scorer, 1>(arguments, team, stream);
    case 2:
      return LaunchKernel<Scorer, 2>(arguments, team, stream);
    case 3:
    case 4:
      return LaunchKernel<Scorer, 4>(arguments, team, stream);
    default:
      return LaunchKernel<Scorer, 8>(arguments, team, stream);
  }
}

cudaError_t LaunchWidth(const Arguments& arguments, const Team& team, cudaStream_t stream) {
  // Without labels there are only windows to choose, which takes any of these kernels.
  switch (arguments.call.labels == nullptr ? 8 : arguments.call.label_width) {
    case 4:
      return LaunchGroup<LabelScorer<4>>(arguments, team, stream);
    case 8:
      return LaunchGroup<LabelScorer<8>>(arguments, team, stream);
    case 16:
      return LaunchGroup<LabelScorer<16>>(arguments, team, stream);
    case 24:
      return LaunchGroup<LabelScorer<24>>(arguments, team, stream);
    case 32:
      return LaunchGroup<LabelScorer<32>>(arguments, team, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace

int64_t SelectScratchBytes(int rows, int kv_heads, int max_context) {
  // Whatever the team, its ranges come to no more.
  const int64_t keys = int64_t{max_context} + kMaxCluster * kMaxWarps * kStepTokens;
  if (keys <= int64_t{MaxCluster()} * MaxSharedKeys()) return 0;
  return rows * kv_heads * keys * static_cast<int64_t>(sizeof(uint32_t));
}

cudaError_t LaunchSelect(const DecodeAttention& call, uint32_t* keys, cudaStream_t stream) {
  const Team team = TeamFor(call.rows * call.kv_heads, call.max_context);
  const bool is_shared = team.Keys(call.max_context) <= MaxSharedKeys();
  const Arguments arguments = {call, CopyBudgetWeights(call), is_shared ? nullptr : keys};
  if (call.exact_scores) {
    const cudaError_t error =
        call.kv_type == KvType::kF16
            ? LaunchGroup<ExactScorer<__half>>(arguments, team, stream)
            : LaunchGroup<ExactScorer<__nv_bfloat16>>(arguments, team, stream);
    if (error != cudaSuccess) return error;
  }
  return LaunchWidth(arguments, team, stream);
}

}  // namespace winnow::cuda
