#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/cluster.cuh"
#include "kernels/cuda/decode_kernels.h"
#include "kernels/cuda/label_layout.cuh"
#include "kernels/cuda/launch.cuh"

namespace winnow::cuda {
namespace {

// One cluster of blocks chooses the tokens of one KV head of one row. Every warp scores a range of
// the context and keeps a key for each token in shared memory: an integer that is ordered as the
// scores are. Histograms of ever narrower ranges of keys, summed over the cluster, find the k-th
// largest one; then every warp writes what it has of the chosen tokens, at the place that counts of
// the warps before it give.
//
// A group of one needs no softmax, which would not change the order.

constexpr int kWarps = 16;
constexpr int kThreads = 32 * kWarps;
constexpr int kMaxCluster = 8;
constexpr int kLaneTokens = 4;  // neighbours that a lane scores at once
constexpr int kStepTokens = 32 * kLaneTokens;
constexpr int kBinBits = 11;
constexpr int kBins = 1 << kBinBits;
constexpr int kThreadBins = kBins / kThreads;
// Keys that a block may hold in shared memory, so that two blocks share a multiprocessor.
constexpr int kMaxSharedKeys = 20480;
constexpr float kLog2e = 1.4426950408889634f;
// As of the CPU's label scores: within so many powers of two, weights relative to the middle of
// what scores labels can have neither overflow nor vanish.
constexpr float kNarrowRange = 200;

// Keys of tokens that are chosen whatever their score, and of those past the context.
constexpr uint32_t kForced = ~0u;
constexpr uint32_t kAbsent = 0;

struct Arguments {
  DecodeAttention call;
  uint32_t* spilled_keys;  // [rows, kv_heads, cluster kWarps warp tokens]; null: in shared memory
};

__host__ __device__ int CeilDivide(int a, int b) { return (a + b - 1) / b; }
// Tokens of a warp: whole steps.
__host__ __device__ int WarpTokens(int context, int cluster) {
  return CeilDivide(CeilDivide(context, cluster * kWarps), kStepTokens) * kStepTokens;
}

__device__ float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// One KV head of one row.
struct Head {
  const DecodeAttention& call;
  int item;  // row kv_heads + kv_head
  int kv_head;
  int context;
  const int32_t* block_table;
  int block_shift;

  // Entry of DecodeAttention::selected of the token.
  __device__ uint32_t Entry(int position) const {
    return (static_cast<uint32_t>(BlockOf(position) * call.kv_heads + kv_head) << block_shift) +
           Slot(position);
  }
  __device__ int32_t BlockOf(int position) const { return block_table[position >> block_shift]; }
  __device__ int Slot(int position) const { return position & ((1 << block_shift) - 1); }
  __device__ const float* Queries() const {
    const int64_t row = call.query_rows[item / call.kv_heads];
    return call.queries + row * call.query_stride + kv_head * call.group * call.head_dim;
  }
};

__device__ Head HeadOf(const DecodeAttention& call, int item) {
  const int row = item / call.kv_heads;
  return {.call = call,
          .item = item,
          .kv_head = item % call.kv_heads,
          .context = call.contexts[row],
          .block_table = call.block_tables + int64_t{call.sequences[row]} * call.max_blocks,
          .block_shift = __ffs(call.block_tokens) - 1};
}

// Values of every thread of the cluster, folded. Used once: no thread may write it while others
// still read.
template <typename T>
struct ClusterFold {
  T of_warp[kWarps][kMaxGroup];
  T of_block[kMaxGroup];

  template <int kCount, typename Fold>
  __device__ void Run(T (&values)[kCount], const Fold& fold) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      for (int step = 16; step > 0; step /= 2) {
        values[i] = fold(values[i], __shfl_xor_sync(~0u, values[i], step));
      }
      if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32][i] = values[i];
    }
    __syncthreads();
    if (threadIdx.x < kCount) {
      T value = of_warp[0][threadIdx.x];
      for (int w = 1; w < kWarps; ++w) value = fold(value, of_warp[w][threadIdx.x]);
      of_block[threadIdx.x] = value;
    }
    SyncCluster();
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      values[i] = *OfRank(&of_block[i], 0);
      for (int rank = 1; rank < ClusterSize(); ++rank) {
        values[i] = fold(values[i], *OfRank(&of_block[i], rank));
      }
    }
  }
};

struct Chosen {
  int larger;
  int equal;
};

struct Shared {
  uint32_t histograms[2][kBins];
  // A query head's weight of a token is 2^(scale score + bias).
  float scale[kMaxGroup];
  float bias[kMaxGroup];
  float factor[kMaxGroup];  // that makes a head's weights its part of their mean
  int8_t codes[kMaxGroup][kMaxLabelWidth];
  int least[kMaxGroup];  // the smallest score that labels can have
  int narrow;            // heads whose bias stands before their scores are known
  ClusterFold<float> max;
  ClusterFold<float> sum;
  ClusterFold<uint32_t> range;
  int of_warp[kWarps];
  struct {
    uint32_t bin;
    int count;
    int wanted;
  } found;
  Chosen chosen[kWarps];
};

// Scores by labels: integers, in units of scale[h].
template <int kWidth>
struct LabelScorer {
  using Score = int;
  static constexpr int kPieces = kWidth < 8 ? 1 : kWidth / 8;
  static constexpr int kUnroll = kPieces < 4 ? 4 / kPieces : 1;  // steps asked for at once

  // Words of four neighbouring tokens.
  struct Labels {
    uint4 words[kPieces];
  };

  const Head& head;
  Shared& shared;
  const std::byte* labels;
  int64_t block_bytes;

  __device__ LabelScorer(const Head& head, Shared& shared) : head(head), shared(shared) {
    const int64_t head_bytes = int64_t{head.call.block_tokens} * kWidth / 2;
    block_bytes = head.call.kv_heads * head_bytes;
    labels = head.call.labels + head.kv_head * head_bytes;
  }

  __device__ static bool Serves(SelectionKind kind) { return kind == SelectionKind::kLabels; }
  __device__ bool KnowsBias() const { return shared.narrow == head.call.group; }
  __device__ static uint32_t KeyOf(int score, int least) {
    return static_cast<uint32_t>(score - least) + 1;
  }

  __device__ const std::byte* At(int position) const {
    constexpr int kTokenBytes = kWidth < 8 ? 2 : 4;
    const int slot = head.Slot(position);
    const int offset = kWidth < 8 ? kTokenBytes * slot : LabelOffset(slot, kWidth, 0);
    return labels + head.BlockOf(position) * block_bytes + offset;
  }

  // Asks for the labels of positions [begin, end) while the queries are prepared.
  __device__ void Prefetch(int begin, int end) const {
    for (int panel = begin + threadIdx.x % 32 * kPanelTokens; panel < end;
         panel += 32 * kPanelTokens) {
      const std::byte* at = At(panel);
      for (int byte = 0; byte < kPanelTokens * kWidth / 2; byte += 64) {
        asm volatile("prefetch.global.L2 [%0];" ::"l"(at + byte));
      }
    }
  }

  __device__ Labels Load(int position) const {
    // Of the last panel what lies past the context may be read, but not past it.
    const std::byte* at = At(min(position, (head.context - 1) & ~(kLaneTokens - 1)));
    Labels loaded;
    if constexpr (kWidth < 8) {
      const uint2 words = __ldg(reinterpret_cast<const uint2*>(at));
      loaded.words[0] = {words.x, words.y, 0, 0};
    } else {
#pragma unroll
      for (int p = 0; p < kPieces; ++p) {
        loaded.words[p] = __ldg(reinterpret_cast<const uint4*>(at + p * 4 * kPanelTokens));
      }
    }
    return loaded;
  }

  // Of query head h and four neighbouring tokens.
  __device__ void ScoreTokens(const Labels& loaded, int h, int (&scores)[kLaneTokens]) const {
    if constexpr (kWidth < 8) {
      const uint32_t codes = *reinterpret_cast<const uint32_t*>(shared.codes[h]);
      const uint4& words = loaded.words[0];
      scores[0] = Dot(words.x, codes & 0xffff, codes >> 16, 0);
      scores[1] = Dot(words.x, codes << 16, codes & 0xffff0000, 0);
      scores[2] = Dot(words.y, codes & 0xffff, codes >> 16, 0);
      scores[3] = Dot(words.y, codes << 16, codes & 0xffff0000, 0);
    } else {
#pragma unroll
      for (int p = 0; p < kPieces; ++p) {
        const uint2 codes = *reinterpret_cast<const uint2*>(&shared.codes[h][8 * p]);
        const uint4& words = loaded.words[p];
        scores[0] = Dot(words.x, codes.x, codes.y, p == 0 ? 0 : scores[0]);
        scores[1] = Dot(words.y, codes.x, codes.y, p == 0 ? 0 : scores[1]);
        scores[2] = Dot(words.z, codes.x, codes.y, p == 0 ? 0 : scores[2]);
        scores[3] = Dot(words.w, codes.x, codes.y, p == 0 ? 0 : scores[3]);
      }
    }
  }

  __device__ static int Dot(uint32_t word, uint32_t low, uint32_t high, int sum) {
    constexpr uint32_t kNibbles = 0x0f0f0f0f;
    sum = __dp4a(static_cast<int>(word & kNibbles), static_cast<int>(low), sum);
    return __dp4a(static_cast<int>(word >> 4 & kNibbles), static_cast<int>(high), sum);
  }

  // Projects the group's queries and rounds them to 8 bits.
  template <int kHeads>
  __device__ void PrepareQueries() {
    static_assert(kHeads * kThreads <= 2 * kBins);
    const int group = head.call.group;
    const int head_dim = head.call.head_dim;
    const float* queries = head.Queries();
    const float* basis = head.call.basis.query + int64_t{head.kv_head} * head_dim * kWidth;
    // Thread t sums every kParts-th number's product into dimension t % kWidth.
    constexpr int kParts = kThreads / kWidth;
    float sums[kHeads] = {};
    for (int x = threadIdx.x; x < head_dim * kWidth && threadIdx.x < kParts * kWidth;
         x += kParts * kWidth) {
      const float factor = __ldg(&basis[x]);
#pragma unroll
      for (int h = 0; h < kHeads; ++h) {
        if (h < group) sums[h] += factor * queries[h * head_dim + x / kWidth];
      }
    }
    auto* const parts = reinterpret_cast<float*>(shared.histograms);  // not yet in use
#pragma unroll
    for (int h = 0; h < kHeads; ++h) parts[h * kThreads + threadIdx.x] = sums[h];
    if (threadIdx.x == 0) shared.narrow = 0;
    __syncthreads();
    const int h = threadIdx.x / 32;
    if (h < kHeads) Round<kParts>(h, parts + h * kThreads);
    __syncthreads();
  }

  // Of one head by one warp.
  template <int kParts>
  __device__ void Round(int h, const float* parts) {
    constexpr int kLaneDims = (kWidth + 31) / 32;
    const int lane = threadIdx.x % 32;
    float value[kLaneDims] = {};
    float largest = 0;
#pragma unroll
    for (int n = 0; n < kLaneDims; ++n) {
      const int i = lane + 32 * n;
      if (i < kWidth) {
        for (int p = 0; p < kParts; ++p) value[n] += parts[p * kWidth + i];
      }
      largest = fmaxf(largest, fabsf(value[n]));
    }
    for (int step = 16; step > 0; step /= 2) {
      largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, step));
    }
    const float to_code = largest > 0 ? 127 / largest : 0;
    int negative = 0;
    int positive = 0;
    for (int n = 0; n < kLaneDims; ++n) {
      const int code = __float2int_rn(value[n] * to_code);
      if (lane + 32 * n < kWidth) shared.codes[h][lane + 32 * n] = static_cast<int8_t>(code);
      negative += min(code, 0);
      positive += max(code, 0);
    }
    const int least = 15 * __reduce_add_sync(~0u, negative);
    const int greatest = 15 * __reduce_add_sync(~0u, positive);
    if (lane == 0 && h < head.call.group) {
      const float scale = largest / 127 * kLog2e / sqrtf(static_cast<float>(head.call.head_dim));
      shared.scale[h] = scale;
      shared.bias[h] = -scale * static_cast<float>(least + greatest) / 2;
      shared.least[h] = least;
      if (scale * static_cast<float>(greatest - least) <= kNarrowRange) {
        atomicAdd(&shared.narrow, 1);
      }
    }
  }
};

// Scores by whole keys: products of queries and keys.
template <typename T>
struct ExactScorer {
  using Score = float;
  static constexpr int kUnroll = 1;
  struct Labels {
    int position;
  };

  const Head& head;
  Shared& shared;

  __device__ ExactScorer(const Head& head, Shared& shared) : head(head), shared(shared) {}
  __device__ static bool Serves(SelectionKind kind) { return kind == SelectionKind::kScores; }
  __device__ bool KnowsBias() const { return false; }
  __device__ static uint32_t KeyOf(float score, int) {
    const uint32_t bits = __float_as_uint(score);
    return bits ^ ((bits >> 31) != 0 ? ~0u : 0x80000000u);
  }
  __device__ void Prefetch(int, int) const {}
  __device__ Labels Load(int position) const { return {position}; }

  __device__ void ScoreTokens(const Labels& at, int h, float (&scores)[kLaneTokens]) const {
    const int head_dim = head.call.head_dim;
    const float* query = head.Queries() + h * head_dim;
#pragma unroll
    for (int t = 0; t < kLaneTokens; ++t) {
      const int64_t entry = head.Entry(min(at.position + t, head.context - 1));
      const T* key = reinterpret_cast<const T*>(head.call.kv) + entry * 2 * head_dim;
      scores[t] = 0;
      for (int c = 0; c < head_dim; ++c) scores[t] += query[c] * static_cast<float>(key[c]);
    }
  }

  template <int kHeads>
  __device__ void PrepareQueries() {
    if (threadIdx.x < kHeads) {
      shared.scale[threadIdx.x] = kLog2e / sqrtf(static_cast<float>(head.call.head_dim));
    }
    __syncthreads();
  }
};

// The tokens that a warp scores, and their keys.
struct Range {
  int begin;
  int end;
  uint32_t* keys;  // of the tokens from `begin` on, up to whole steps

  __device__ int Steps() const { return end > begin ? CeilDivide(end - begin, kStepTokens) : 0; }
  __device__ uint4& LaneKeys(int step) const {
    return reinterpret_cast<uint4*>(keys)[step * 32 + threadIdx.x % 32];
  }
  __device__ int LanePosition(int step) const {
    return begin + step * kStepTokens + threadIdx.x % 32 * kLaneTokens;
  }
};

// Calls body(step, labels) with the labels of the lane's four tokens of each step.
template <typename Scorer, typename Body>
__device__ void ForLabels(const Scorer& scorer, const Range& range, const Body& body) {
  constexpr int kUnroll = Scorer::kUnroll;
  for (int step = 0; step < range.Steps(); step += kUnroll) {
    typename Scorer::Labels labels[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) labels[u] = scorer.Load(range.LanePosition(step + u));
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (step + u < range.Steps()) body(step + u, labels[u]);
    }
  }
}

// Sets the biases by the largest scores, where they are not known beforehand.
template <int kHeads, typename Scorer>
__device__ void FindBias(const Scorer& scorer, const Head& head, const Range& range,
                         Shared& shared) {
  float max[kHeads];
#pragma unroll
  for (int h = 0; h < kHeads; ++h) max[h] = -INFINITY;
  ForLabels(scorer, range, [&](int step, const auto& labels) {
    const int valid = head.context - range.LanePosition(step);
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      if (h >= head.call.group) break;
      typename Scorer::Score scores[kLaneTokens];
      scorer.ScoreTokens(labels, h, scores);
#pragma unroll
      for (int t = 0; t < kLaneTokens; ++t) {
        if (t < valid) max[h] = fmaxf(max[h], static_cast<float>(scores[t]));
      }
    }
  });
  shared.max.Run(max, [](float a, float b) { return fmaxf(a, b); });
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    if (threadIdx.x == h) shared.bias[h] = -max[h] * shared.scale[h];
  }
  __syncthreads();
}

// weights[t] = 2^(scale score + bias) of head h.
template <typename Scorer>
__device__ void WeighTokens(const Scorer& scorer, const typename Scorer::Labels& labels, int h,
                            const Shared& shared, float (&weights)[kLaneTokens]) {
  typename Scorer::Score scores[kLaneTokens];
  scorer.ScoreTokens(labels, h, scores);
  const float scale = shared.scale[h];
  const float bias = shared.bias[h];
#pragma unroll
  for (int t = 0; t < kLaneTokens; ++t) {
    weights[t] = Exp2(fmaf(static_cast<float>(scores[t]), scale, bias));
  }
}

// Sets the factors: 1 / the sum of each head's weights. The mean of softmaxes is larger by the
// group's size, which orders alike.
template <int kHeads, typename Scorer>
__device__ void FindFactors(const Scorer& scorer, const Head& head, const Range& range,
                            Shared& shared) {
  float sums[kHeads] = {};
  ForLabels(scorer, range, [&](int step, const auto& labels) {
    const int valid = head.context - range.LanePosition(step);
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      if (h >= head.call.group) break;
      float weights[kLaneTokens];
      WeighTokens(scorer, labels, h, shared, weights);
#pragma unroll
      for (int t = 0; t < kLaneTokens; ++t) sums[h] += t < valid ? weights[t] : 0;
    }
  });
  shared.sum.Run(sums, [](float a, float b) { return a + b; });
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    if (threadIdx.x == h) shared.factor[h] = 1 / sums[h];
  }
  __syncthreads();
}

// The keys of the warp's tokens, from softmax weights summed over the heads or, of one head, from
// scores. Returns the least and the largest of those that a choice is to be made among.
template <int kHeads, typename Scorer>
__device__ void MakeKeys(const Scorer& scorer, const Head& head, const Range& range, int window,
                         Shared& shared, uint32_t* least, uint32_t* largest) {
  uint32_t extremes[2] = {~0u, ~0u};  // of keys, of their complements
  if constexpr (kHeads > 1) {
    if (!scorer.KnowsBias()) FindBias<kHeads>(scorer, head, range, shared);
    FindFactors<kHeads>(scorer, head, range, shared);
  }
  ForLabels(scorer, range, [&](int step, const auto& labels) {
    uint32_t keys[kLaneTokens];
    if constexpr (kHeads == 1) {
      typename Scorer::Score scores[kLaneTokens];
      scorer.ScoreTokens(labels, 0, scores);
      const int least_score = shared.least[0];
#pragma unroll
      for (int t = 0; t < kLaneTokens; ++t) keys[t] = Scorer::KeyOf(scores[t], least_score);
    } else {
      float sums[kLaneTokens] = {};
#pragma unroll
      for (int h = 0; h < kHeads; ++h) {
        if (h >= head.call.group) break;
        float weights[kLaneTokens];
        WeighTokens(scorer, labels, h, shared, weights);
        const float factor = shared.factor[h];
#pragma unroll
        for (int t = 0; t < kLaneTokens; ++t) sums[t] = fmaf(factor, weights[t], sums[t]);
      }
#pragma unroll
      for (int t = 0; t < kLaneTokens; ++t) keys[t] = __float_as_uint(sums[t]) + 1;
    }
    const int position = range.LanePosition(step);
#pragma unroll
    for (int t = 0; t < kLaneTokens; ++t) {
      const int p = position + t;
      if (p >= head.call.sinks && p < head.context - window) {
        extremes[0] = min(extremes[0], keys[t]);
        extremes[1] = min(extremes[1], ~keys[t]);
      } else {
        keys[t] = p < head.context ? kForced : kAbsent;
      }
    }
    range.LaneKeys(step) = {keys[0], keys[1], keys[2], keys[3]};
  });
  shared.range.Run(extremes, [](uint32_t a, uint32_t b) { return min(a, b); });
  *least = extremes[0];
  *largest = ~extremes[1];
}

// Of the counts in the cluster's histograms: the bin in which the `wanted`-th key from above lies,
// how many it holds and how many of these are wanted.
__device__ void FindBin(const uint32_t* histogram, int wanted, Shared& shared) {
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  // Thread t has the t-th bins from above.
  static_assert(kThreadBins == 4);
  const int first_bin = kBins - kThreadBins * (static_cast<int>(threadIdx.x) + 1);
  uint4 counts = {};
  for (int rank = 0; rank < ClusterSize(); ++rank) {
    const uint4 more = *reinterpret_cast<const uint4*>(OfRank(histogram + first_bin, rank));
    counts.x += more.x;
    counts.y += more.y;
    counts.z += more.z;
    counts.w += more.w;
  }
  const int of_bin[kThreadBins] = {static_cast<int>(counts.w), static_cast<int>(counts.z),
                                   static_cast<int>(counts.y), static_cast<int>(counts.x)};
  const int of_thread = of_bin[0] + of_bin[1] + of_bin[2] + of_bin[3];
  int sum = of_thread;
  for (int step = 1; step < 32; step *= 2) {
    const int above = __shfl_up_sync(~0u, sum, step);
    if (lane >= step) sum += above;
  }
  if (lane == 31) shared.of_warp[warp] = sum;
  __syncthreads();
  sum -= of_thread;
  for (int w = 0; w < warp; ++w) sum += shared.of_warp[w];
  for (int i = 0; i < kThreadBins; ++i) {
    if (sum < wanted && sum + of_bin[i] >= wanted) {
      shared.found = {static_cast<uint32_t>(first_bin + kThreadBins - 1 - i), of_bin[i],
                      wanted - sum};
    }
    sum += of_bin[i];
  }
  __syncthreads();
}

// Chosen are keys above `key`, and of those equal to it the first `ties`.
struct Threshold {
  uint32_t key;
  int ties;
};

// The `wanted`-th largest of the cluster's keys between `least` and `largest`.
__device__ Threshold FindThreshold(const Range& range, uint32_t least, uint32_t largest, int wanted,
                                   Shared& shared) {
  for (int round = 0;; ++round) {
    const uint32_t width = largest - least;
    const int shift = max(0, 32 - __clz(width) - kBinBits);
    // The other blocks are done with what this histogram counted two rounds ago.
    uint32_t* const histogram = shared.histograms[round % 2];
    reinterpret_cast<uint4*>(histogram)[threadIdx.x] = {};
    __syncthreads();
    const auto count = [&](uint32_t key) {
      if (key - least <= width) atomicAdd(&histogram[(key - least) >> shift], 1);
    };
    for (int step = 0; step < range.Steps(); ++step) {
      const uint4 keys = range.LaneKeys(step);
      count(keys.x);
      count(keys.y);
      count(keys.z);
      count(keys.w);
    }
    SyncCluster();
    FindBin(histogram, wanted, shared);
    const auto [bin, in_bin, left] = shared.found;
    least += bin << shift;
    wanted = left;
    if (shift == 0) return {least, wanted};
    if (in_bin == wanted) return {least - 1, 0};
    largest = min(largest, least + ((1u << shift) - 1));
  }
}

// Writes the warp's part of the chosen tokens, in order.
__device__ void WriteChosen(const Head& head, const Range& range, const Threshold& threshold,
                            uint32_t* selected, Shared& shared) {
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  Chosen mine = {};
  for (int step = 0; step < range.Steps(); ++step) {
    const uint4 keys = range.LaneKeys(step);
    for (const uint32_t key : {keys.x, keys.y, keys.z, keys.w}) {
      mine.larger += key > threshold.key;
      mine.equal += key == threshold.key;
    }
  }
  mine.larger = __reduce_add_sync(~0u, mine.larger);
  mine.equal = __reduce_add_sync(~0u, mine.equal);
  if (lane == 0) shared.chosen[warp] = mine;
  SyncCluster();
  Chosen before = {};
  for (int rank = 0; rank <= ClusterRank(); ++rank) {
    if (lane < (rank < ClusterRank() ? kWarps : warp)) {
      const Chosen* other = OfRank(&shared.chosen[lane], rank);
      before.larger += other->larger;
      before.equal += other->equal;
    }
  }
  before.larger = __reduce_add_sync(~0u, before.larger);
  before.equal = __reduce_add_sync(~0u, before.equal);

  for (int step = 0; step < range.Steps(); ++step) {
    const uint4 four = range.LaneKeys(step);
    const uint32_t keys[kLaneTokens] = {four.x, four.y, four.z, four.w};
    // Larger ones in the low half, equal ones in the high half.
    uint32_t of_lane = 0;
    for (const uint32_t key : keys) {
      of_lane += (key > threshold.key ? 1 : 0) + (key == threshold.key ? 1 << 16 : 0);
    }
    if (!__any_sync(~0u, of_lane != 0)) continue;
    uint32_t sum = of_lane;
    for (int distance = 1; distance < 32; distance *= 2) {
      const uint32_t below = __shfl_up_sync(~0u, sum, distance);
      if (lane >= distance) sum += below;
    }
    const uint32_t of_step = __shfl_sync(~0u, sum, 31);
    sum -= of_lane;
    if (of_lane != 0) {
      int larger = before.larger + static_cast<int>(sum & 0xffff);
      int equal = before.equal + static_cast<int>(sum >> 16);
      const int position = range.LanePosition(step);
      const uint32_t entry = head.Entry(position);
      for (int t = 0; t < kLaneTokens; ++t) {
        const bool is_equal = keys[t] == threshold.key;
        if (keys[t] > threshold.key || (is_equal && equal < threshold.ties)) {
          selected[larger + min(equal, threshold.ties)] = entry + t;
        }
        larger += keys[t] > threshold.key;
        equal += is_equal;
      }
    }
    before.larger += static_cast<int>(of_step & 0xffff);
    before.equal += static_cast<int>(of_step >> 16);
  }
}

template <typename Scorer, int kHeads>
__global__ void __launch_bounds__(kThreads, 2) Select(const __grid_constant__ Arguments arguments) {
  extern __shared__ uint4 shared_keys[];
  __shared__ Shared shared;
  LetNextKernelStart();
  WaitForPreviousKernel();
  const DecodeAttention& call = arguments.call;
  const int cluster = ClusterSize();
  const int item = blockIdx.x / cluster;
  const Head head = HeadOf(call, item);
  const int budget = call.budgets[item];
  const SelectionKind kind = call.kinds[item / call.kv_heads];
  uint32_t* const selected = call.selected + int64_t{item} * call.max_selected;
  // The whole cluster returns.
  if (budget >= head.context) return;
  if (kind == SelectionKind::kWindow) {
    for (int i = ClusterRank() * kThreads + threadIdx.x; i < budget; i += cluster * kThreads) {
      selected[i] = head.Entry(i < call.sinks ? i : head.context - budget + i);
    }
    return;
  }
  if (!Scorer::Serves(kind)) return;

  const int warp_tokens = WarpTokens(head.context, cluster);
  const int warp = threadIdx.x / 32;
  Range range;
  range.begin = (ClusterRank() * kWarps + warp) * warp_tokens;
  range.end = min(head.context, range.begin + warp_tokens);
  if (arguments.spilled_keys == nullptr) {
    range.keys = reinterpret_cast<uint32_t*>(shared_keys) + warp * warp_tokens;
  } else {
    range.keys = arguments.spilled_keys +
                 int64_t{item} * cluster * kWarps * WarpTokens(call.max_context, cluster) +
                 range.begin;
  }
  Scorer scorer(head, shared);
  scorer.Prefetch(range.begin, range.end);
  scorer.template PrepareQueries<kHeads>();
  uint32_t least;
  uint32_t largest;
  MakeKeys<kHeads>(scorer, head, range, call.window, shared, &least, &largest);
  const int wanted = budget - call.sinks - call.window;
  const Threshold threshold =
      wanted > 0 ? FindThreshold(range, least, largest, wanted, shared) : Threshold{kForced - 1, 0};
  WriteChosen(head, range, threshold, selected, shared);
  SyncCluster();  // others may still read this block's counts
}

// Blocks to a head: enough to fill the device twice, but none with less to do than is worth it.
int ClusterFor(int heads, int max_context) {
  constexpr int kMinBlockTokens = kWarps * kStepTokens;
  const DeviceTraits& device = CurrentDeviceTraits();
  int cluster = 1;
  if (device.capability_major < 9) return cluster;
  const auto more = [&] {
    return heads * cluster < 3 * device.multiprocessors || cluster * kMaxSharedKeys < max_context;
  };
  while (cluster < kMaxCluster && more() && cluster * kMinBlockTokens < max_context) cluster *= 2;
  return cluster;
}

// Of a block, if all of them fit into shared memory, else 0.
int SharedKeys(int max_context, int cluster) {
  const int keys = kWarps * WarpTokens(max_context, cluster);
  return keys <= kMaxSharedKeys ? keys : 0;
}

template <typename Scorer, int kHeads>
cudaError_t LaunchKernel(const Arguments& arguments, int cluster, int shared_keys,
                         cudaStream_t stream) {
  const DecodeAttention& call = arguments.call;
  const LaunchShape shape = {.blocks = call.rows * call.kv_heads * cluster,
                             .threads = kThreads,
                             .cluster = cluster,
                             .shared_bytes = shared_keys * static_cast<int>(sizeof(uint32_t))};
  return LaunchEarly(Select<Scorer, kHeads>, shape, CurrentDeviceTraits().capability_major, stream,
                     arguments);
}

template <typename Scorer>
cudaError_t LaunchGroup(const Arguments& arguments, int cluster, int shared_keys,
                        cudaStream_t stream) {
  switch (arguments.call.group) {
    case 1:
      return LaunchKernel<Scorer, 1>(arguments, cluster, shared_keys, stream);
    case 2:
      return LaunchKernel<Scorer, 2>(arguments, cluster, shared_keys, stream);
    case 3:
    case 4:
      return LaunchKernel<Scorer, 4>(arguments, cluster, shared_keys, stream);
    default:
      return LaunchKernel<Scorer, 8>(arguments, cluster, shared_keys, stream);
  }
}

cudaError_t LaunchWidth(const Arguments& arguments, int cluster, int shared_keys,
                        cudaStream_t stream) {
  switch (arguments.call.label_width) {
    case 4:
      return LaunchGroup<LabelScorer<4>>(arguments, cluster, shared_keys, stream);
    case 8:
      return LaunchGroup<LabelScorer<8>>(arguments, cluster, shared_keys, stream);
    case 16:
      return LaunchGroup<LabelScorer<16>>(arguments, cluster, shared_keys, stream);
    case 24:
      return LaunchGroup<LabelScorer<24>>(arguments, cluster, shared_keys, stream);
    case 32:
      return LaunchGroup<LabelScorer<32>>(arguments, cluster, shared_keys, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace

int64_t SelectScratchBytes(int rows, int kv_heads, int max_context) {
  const int cluster = ClusterFor(rows * kv_heads, max_context);
  if (SharedKeys(max_context, cluster) > 0) return 0;
  return int64_t{rows} * kv_heads * cluster * kWarps * WarpTokens(max_context, cluster) *
         static_cast<int64_t>(sizeof(uint32_t));
}

cudaError_t LaunchSelect(const DecodeAttention& call, uint32_t* keys, cudaStream_t stream) {
  const int cluster = ClusterFor(call.rows * call.kv_heads, call.max_context);
  const int shared_keys = SharedKeys(call.max_context, cluster);
  const Arguments arguments = {call, shared_keys > 0 ? nullptr : keys};
  if (call.exact_scores) {
    const cudaError_t error =
        call.kv_type == KvType::kF16
            ? LaunchGroup<ExactScorer<__half>>(arguments, cluster, shared_keys, stream)
            : LaunchGroup<ExactScorer<__nv_bfloat16>>(arguments, cluster, shared_keys, stream);
    if (error != cudaSuccess) return error;
  }
  return LaunchWidth(arguments, cluster, shared_keys, stream);
}

}  // namespace winnow::cuda
