#include <algorithm>
#include <climits>
#include <cstdint>

#include "kernels/cuda/budgets.cuh"
#include "kernels/cuda/cluster.cuh"
#include "kernels/cuda/decode_kernels.h"
#include "kernels/cuda/head_sizes.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/select_keys.cuh"
#include "kernels/cuda/select_range.cuh"
#include "kernels/cuda/select_tail.cuh"
#include "kernels/cuda/select_tail_estimate.cuh"
#include "kernels/cuda/select_tail_group.cuh"
#include "kernels/cuda/select_tail_one.cuh"
#include "kernels/cuda/select_threshold.cuh"
#include "kernels/cuda/token_scorers.cuh"
#include "kernels/summary.h"

namespace winnow::cuda {
namespace {

using namespace select;  // NOLINT: this is what its parts are for

// One cluster of blocks chooses the tokens of one KV head of one row. Every warp scores a range of
// the context and keeps a key for each token in shared memory: an integer that is ordered as the
// scores are. Histograms of ever narrower ranges of keys, summed over the cluster, find the k-th
// largest one; then every warp writes what it has of the chosen tokens, at the place that counts of
// the warps before it give. All this is bound by the number of instructions: what is done for every
// token is kept to a minimum, and each warp has many. Blocks have 8 to 32 warps; what does not grow
// with the context is done by the first 8.
//
// Kernels of layers with tails also sum labels up that are not chosen: see select_tail.cuh.
//
// A group of one needs no softmax, which would not change the order. Others are padded to a power
// of two by heads that weigh nothing.

// Shared memory of a block for anything but keys.
constexpr int kOtherSharedBytes = 24 * 1024;

struct Arguments {
  DecodeAttention call;
  BudgetWeights weights;
  TailWeights tails;
  int estimate_bytes;      // of a head's tail, in shared memory
  uint32_t* spilled_keys;  // [rows, kv_heads, warps warp tokens]; null: in shared memory
};

// Writes the warp's part of the `budget` chosen tokens, in order, and tells the tail.
template <typename Tail>
__device__ void WriteChosen(const DecodeHead& head, const Range& range, const Threshold& threshold,
                            int budget, uint32_t* selected, Shared& shared, Tail& tail) {
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
      const int place = larger + min(equal, threshold.ties);
      if (begin + 32 * u + lane < count && (!is_equal || equal < threshold.ties) &&
          place < budget) {
        selected[place] = entries[u];
      }
      if constexpr (Tail::kCounts) {
        if (is_equal && equal >= threshold.ties) range.keys[begin + 32 * u + lane] |= kLate;
      }
      before.equal += __popc(equals);
      before.larger += 32 - __popc(equals);
    }
  }
  if constexpr (Tail::kCounts) {
    if (tail.is_wanted()) tail.Finish(range, count, threshold);
  }
}

// The choice of SelectionKind::kWindow.
__device__ void WriteWindow(const DecodeHead& head, int budget, uint32_t* selected) {
  const int threads = ClusterSize() * blockDim.x;
  for (int i = ClusterRank() * blockDim.x + threadIdx.x; i < budget; i += threads) {
    selected[i] = head.Entry(i < head.call.sinks ? i : head.context - budget + i);
  }
}

template <typename Scorer, int kHeads, bool kTail>
__global__ void __launch_bounds__(32 * kMaxWarps, 1)
    Select(const __grid_constant__ Arguments arguments) {
  extern __shared__ uint4 dynamic_shared[];  // the estimate of a tail, then keys
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
    range.keys = reinterpret_cast<uint32_t*>(dynamic_shared) +
                 arguments.estimate_bytes / static_cast<int>(sizeof(uint32_t)) + warp * warp_tokens;
  } else {
    range.keys = arguments.spilled_keys +
                 int64_t{item} * warps * WarpTokens(call.max_context, warps) + range.begin;
  }
  Scorer scorer(head, shared.queries);
  scorer.Prefetch(range.begin, range.end);
  float tail_weight = 0;
  if constexpr (kTail) {
    tail_weight = TailOf(call, arguments.weights, arguments.tails, row, head.kv_head);
  }
  for (int i = threadIdx.x; i < kBins; i += blockDim.x) shared.histograms[0][i] = 0;
  WaitForPreviousKernel();
  if (tail_weight > 0) {
    StageEstimate(EstimateOf(call, row, head.kv_head), {call.label_width, call.head_dim},
                  dynamic_shared);
  }
  // The second histogram is not in use yet.
  static_assert(kHeads * kFirstThreads <= kBins);
  scorer.template PrepareQueries<kHeads>(reinterpret_cast<float*>(shared.histograms[1]));
  const int wanted = budget - call.sinks - call.window;
  const KeyRange covered = MakeKeys<kHeads>(scorer, head, range, shared);
  const Threshold threshold =
      wanted > 0 ? FindThreshold(range, covered, wanted, shared) : Threshold{kForced, INT_MAX};
  if constexpr (kTail) {
    using Tail = TailSums<Scorer::kLabelWidth, kHeads>;
    Tail tail(scorer, shared, tail_weight > 0);  // for the whole cluster
    if (tail.is_wanted()) tail.AddBelow(range, threshold);
    WriteChosen(head, range, threshold, budget, selected, shared, tail);
    if (tail.is_wanted()) {
      // No block reads another's histograms any more.
      static_assert(sizeof(typename Tail::BlockShared) <= sizeof(shared.histograms));
      auto& sums = reinterpret_cast<typename Tail::BlockShared&>(shared.histograms);
      ShareTail(tail, sums);
      WaitForCopies<0>();
      SyncCluster();
      const TailEstimate<Scorer::kLabelWidth, kHeads> estimate(head, dynamic_shared);
      estimate.Write(tail_weight, threshold, shared, sums);
    }
  } else {
    NoTail tail;
    WriteChosen(head, range, threshold, budget, selected, shared, tail);
  }
  SyncCluster();  // others may still read this block's counts and sums
}

// Of a head's tail, in shared memory: a whole number of keys' 16 bytes.
int EstimateBytes(const DecodeAttention& call) {
  if (call.tail_weights == nullptr || call.label_width < 8) return 0;
  return static_cast<int>(SummaryShape{call.label_width, call.head_dim}.estimate_bytes());
}
constexpr auto kMaxEstimateBytes =
    static_cast<int>(SummaryShape{kMaxDecodeLabelWidth, kMaxHeadDim}.estimate_bytes());

// Keys that a block can hold in shared memory, beside an estimate.
int MaxSharedKeys(int estimate_bytes) {
  return (CurrentDeviceTraits().block_shared_bytes - kOtherSharedBytes - estimate_bytes) /
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
// alone need not exchange histograms, so clusters are for a few long heads that have more warps
// then than one block can have; theirs are small blocks, few enough for two places each: where some
// clusters find no room beside the others, all wait.
Team TeamFor(int heads, int max_context, int max_shared_keys, bool has_tail) {
  constexpr int kFullWarps = 24;  // of a multiprocessor
  constexpr int kClusterWarps = 16;
  const int multiprocessors = CurrentDeviceTraits().multiprocessors;
  const auto is_worth = [&](int warps, int steps) {
    return warps * steps * kStepTokens <= max_context;
  };
  const auto fits = [&](const Team& team, int blocks) {
    return blocks * team.Keys(max_context) <= max_shared_keys;
  };
  constexpr int kSteps = 4;
  Team alone;
  // Tails are more work for every token.
  while (alone.warps < kMaxWarps && is_worth(2 * alone.warps, has_tail ? 2 : kSteps) &&
         (heads * alone.warps < kFullWarps * multiprocessors || !fits(alone, 2))) {
    alone.warps *= 2;
  }
  const bool is_enough = alone.warps < kMaxWarps || 2 * heads > multiprocessors;
  if (MaxCluster() == 1 || (is_enough && fits(alone, 1))) return alone;
  Team team = {.warps = kClusterWarps};
  while (team.cluster < MaxCluster() && is_worth(2 * team.cluster * team.warps, kSteps) &&
         (2 * heads * team.cluster <= multiprocessors || !fits(team, 1))) {
    team.cluster *= 2;
  }
  const bool is_more = team.cluster * team.warps > alone.warps;
  return is_more || !fits(alone, 1) ? team : alone;
}

template <typename Scorer, int kHeads>
cudaError_t LaunchKernel(const Arguments& arguments, const Team& team, cudaStream_t stream) {
  const DecodeAttention& call = arguments.call;
  const int key_bytes = arguments.spilled_keys != nullptr
                            ? 0
                            : team.Keys(call.max_context) * static_cast<int>(sizeof(uint32_t));
  const LaunchShape shape = {.blocks = call.rows * call.kv_heads * team.cluster,
                             .threads = 32 * team.warps,
                             .cluster = team.cluster,
                             .shared_bytes = arguments.estimate_bytes + key_bytes};
  const auto launch = [&](auto kernel) {
    return LaunchEarly(kernel, shape, CurrentDeviceTraits().capability_major, stream, arguments);
  };
  if constexpr (Scorer::kLabelWidth >= 8) {
    if (call.tail_weights != nullptr) return launch(Select<Scorer, kHeads, true>);
  }
  return launch(Select<Scorer, kHeads, false>);
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
  if (keys <= int64_t{MaxCluster()} * MaxSharedKeys(kMaxEstimateBytes)) return 0;
  return rows * kv_heads * keys * static_cast<int64_t>(sizeof(uint32_t));
}

cudaError_t LaunchSelect(const DecodeAttention& call, uint32_t* keys, cudaStream_t stream) {
  const bool has_tail = call.tail_weights != nullptr && call.group > 1;
  const int estimate_bytes = EstimateBytes(call);
  const int max_keys = MaxSharedKeys(estimate_bytes);
  const Team team = TeamFor(call.rows * call.kv_heads, call.max_context, max_keys, has_tail);
  const bool is_shared = team.Keys(call.max_context) <= max_keys;
  const Arguments arguments = {call, CopyBudgetWeights(call), CopyTailWeights(call), estimate_bytes,
                               is_shared ? nullptr : keys};
  if (call.exact_scores) {
    const cudaError_t error = LaunchGroup<ExactScorer>(arguments, team, stream);
    if (error != cudaSuccess) return error;
  }
  return LaunchWidth(arguments, team, stream);
}

}  // namespace winnow::cuda
