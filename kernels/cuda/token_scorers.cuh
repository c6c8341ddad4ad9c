#pragma once

#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/cuda/decode_attention.h"
#include "kernels/cuda/label_layout.cuh"
#include "kernels/cuda/math.cuh"

namespace winnow::cuda {

// How tokens are scored for a KV head of a row: by labels or by whole keys. A scorer is a policy of
// the kernel that chooses tokens: its lanes load what four neighbouring tokens are scored by, then
// score them for one query head after the other. Scores become keys, integers that are ordered as
// they are, or weights 2^(scale score + bias).

inline constexpr int kLaneTokens = 4;  ///< neighbours that a lane scores at once
/// Threads that do what does not grow with the context.
inline constexpr int kFirstThreads = 256;
/// As of the CPU's label scores: within so many powers of two, weights relative to the middle of
/// what scores labels can have neither overflow nor vanish.
inline constexpr float kNarrowRange = 200;

/// Keys of tokens that are chosen whatever their score, and of those past the context.
inline constexpr uint32_t kForced = ~0u;
inline constexpr uint32_t kAbsent = 0;

/// Of keys, both ends included.
struct KeyRange {
  uint32_t least;
  uint32_t largest;
};

/// One KV head of one row.
struct DecodeHead {
  const DecodeAttention& call;
  int item;  ///< row kv_heads + kv_head
  int kv_head;
  int context;
  const int32_t* block_table;
  int block_shift;

  /// Entry of DecodeAttention::selected of the token.
  __device__ uint32_t Entry(int position) const {
    return (static_cast<uint32_t>(BlockOf(position) * call.kv_heads + kv_head) << block_shift) +
           Slot(position);
  }
  __device__ int32_t BlockOf(int position) const {
    return __ldg(&block_table[static_cast<uint32_t>(position) >> block_shift]);
  }
  __device__ int Slot(int position) const { return position & ((1 << block_shift) - 1); }
  __device__ const float* Queries() const {
    const int64_t row = call.query_rows[item / call.kv_heads];
    return call.queries + row * call.query_stride + kv_head * call.group * call.head_dim;
  }
};

__device__ inline DecodeHead HeadOf(const DecodeAttention& call, int item) {
  const int row = item / call.kv_heads;
  return {.call = call,
          .item = item,
          .kv_head = item % call.kv_heads,
          .context = call.contexts[row],
          .block_table = call.block_tables + int64_t{call.sequences[row]} * call.max_blocks,
          .block_shift = __ffs(call.block_tokens) - 1};
}

/// The query heads of a group, in shared memory.
struct GroupQueries {
  float scale[kMaxGroup];
  float bias[kMaxGroup];
  int8_t codes[kMaxGroup][kMaxDecodeLabelWidth];
  int least[kMaxGroup];  ///< of the scores that labels can have
  int greatest[kMaxGroup];
  int narrow;  ///< heads whose bias stands before their scores are known
};

/// Scores by labels: integers, in units of scale[h].
template <int kWidth>
struct LabelScorer {
  using Score = int;
  static constexpr int kLabelWidth = kWidth;
  static constexpr int kPieces = kWidth < 8 ? 1 : kWidth / 8;
  static constexpr int kUnroll = kPieces < 4 ? 4 / kPieces : 1;  // steps asked for at once

  // Words of four neighbouring tokens.
  struct Labels {
    uint4 words[kPieces];
  };

  const DecodeHead& head;
  GroupQueries& group;
  const std::byte* labels;
  uint32_t block_bytes;

  __device__ LabelScorer(const DecodeHead& head, GroupQueries& group) : head(head), group(group) {
    const int head_bytes = head.call.block_tokens * kWidth / 2;
    block_bytes = head.call.kv_heads * head_bytes;
    labels = head.call.labels + head.kv_head * head_bytes;
  }

  __device__ static bool Serves(SelectionKind kind) { return kind == SelectionKind::kLabels; }
  template <int kHeads>
  __device__ bool KnowsBias() const {
    return group.narrow == kHeads;
  }
  // Where keys start from, as ScoreTokens' start of the sums: they become keys by themselves.
  __device__ int KeyStart() const { return 1 - group.least[0]; }
  __device__ static uint32_t KeyOf(int score) { return static_cast<uint32_t>(score); }
  __device__ KeyRange Keys() const {
    return {1, static_cast<uint32_t>(group.greatest[0] - group.least[0]) + 1};
  }
  // The start that makes the sums' bits those of floats, kFloatZero more than the score: no
  // conversion, for which there are few units.
  static constexpr int kFloatStart = 0x4b400000;
  static constexpr float kFloatZero = 12582912;
  __device__ static float FloatOf(int score) { return __int_as_float(score); }

  __device__ const std::byte* At(int position) const {
    constexpr int kTokenBytes = kWidth < 8 ? 2 : 4;
    const int slot = head.Slot(position);
    const int offset = kWidth < 8 ? kTokenBytes * slot : LabelOffset(slot, kWidth, 0);
    return labels + uint64_t{static_cast<uint32_t>(head.BlockOf(position))} * block_bytes + offset;
  }

  // Asks for the labels of positions [begin, end) and for the basis. Harmless where the kernel
  // before still writes: this only brings lines into the cache that all kernels share.
  __device__ void Prefetch(int begin, int end) const {
    const auto ask = [](const void* at) { asm volatile("prefetch.global.L2 [%0];" ::"l"(at)); };
    constexpr int kLineFloats = 32;
    const int basis_floats = head.call.head_dim * kWidth;
    for (int x = threadIdx.x * kLineFloats; x < basis_floats; x += blockDim.x * kLineFloats) {
      ask(Basis() + x);
    }
    for (int panel = begin + threadIdx.x % 32 * kPanelTokens; panel < end;
         panel += 32 * kPanelTokens) {
      const std::byte* at = At(panel);
      for (int byte = 0; byte < kPanelTokens * kWidth / 2; byte += 64) ask(at + byte);
    }
  }

  __device__ const float* Basis() const {
    return head.call.basis.query + int64_t{head.kv_head} * head.call.head_dim * kWidth;
  }

  __device__ Labels Load(int position) const { return LoadAt(LaneAt(position)); }
  // Where what Load loads begins.
  __device__ const std::byte* LaneAt(int position) const {
    // Of the last panel what lies past the context may be read, but not past it.
    return At(min(position, (head.context - 1) & ~(kLaneTokens - 1)));
  }
  __device__ static Labels LoadAt(const std::byte* at) {
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

  // Of query head h and four neighbouring tokens, each plus `start`.
  __device__ void ScoreTokens(const Labels& loaded, int h, int start,
                              int (&scores)[kLaneTokens]) const {
    if constexpr (kWidth < 8) {
      const uint32_t codes = *reinterpret_cast<const uint32_t*>(group.codes[h]);
      const uint4& words = loaded.words[0];
      scores[0] = Dot(words.x, codes & 0xffff, codes >> 16, start);
      scores[1] = Dot(words.x, codes << 16, codes & 0xffff0000, start);
      scores[2] = Dot(words.y, codes & 0xffff, codes >> 16, start);
      scores[3] = Dot(words.y, codes << 16, codes & 0xffff0000, start);
    } else {
#pragma unroll
      for (int p = 0; p < kPieces; ++p) {
        const uint2 codes = *reinterpret_cast<const uint2*>(&group.codes[h][8 * p]);
        const uint4& words = loaded.words[p];
        scores[0] = Dot(words.x, codes.x, codes.y, p == 0 ? start : scores[0]);
        scores[1] = Dot(words.y, codes.x, codes.y, p == 0 ? start : scores[1]);
        scores[2] = Dot(words.z, codes.x, codes.y, p == 0 ? start : scores[2]);
        scores[3] = Dot(words.w, codes.x, codes.y, p == 0 ? start : scores[3]);
      }
    }
  }

  // Of query head h and one token; width >= 8.
  __device__ int ScoreToken(const uint32_t (&words)[kPieces], int h, int start) const {
    int score = start;
#pragma unroll
    for (int p = 0; p < kPieces; ++p) {
      const uint2 codes = *reinterpret_cast<const uint2*>(&group.codes[h][8 * p]);
      score = Dot(words[p], codes.x, codes.y, score);
    }
    return score;
  }

  __device__ static int Dot(uint32_t word, uint32_t low, uint32_t high, int sum) {
    constexpr uint32_t kNibbles = 0x0f0f0f0f;
    sum = __dp4a(static_cast<int>(word & kNibbles), static_cast<int>(low), sum);
    return __dp4a(static_cast<int>(word >> 4 & kNibbles), static_cast<int>(high), sum);
  }

  // Projects the group's queries and rounds them to 8 bits. `parts` [kHeads, kFirstThreads] is
  // scratch in shared memory.
  template <int kHeads>
  __device__ void PrepareQueries(float* parts) {
    static_assert(32 * kHeads <= kFirstThreads);
    const int head_dim = head.call.head_dim;
    const float* queries = head.Queries();
    const float* basis = Basis();
    // Thread t sums every kParts-th number's product into dimension t % kWidth.
    constexpr int kParts = kFirstThreads / kWidth;
    if (threadIdx.x < kParts * kWidth) {
      float sums[kHeads] = {};
#pragma unroll 4
      for (int x = threadIdx.x; x < head_dim * kWidth; x += kParts * kWidth) {
        const float factor = __ldg(&basis[x]);
#pragma unroll
        for (int h = 0; h < kHeads; ++h) {
          if (h < head.call.group) sums[h] += factor * queries[h * head_dim + x / kWidth];
        }
      }
#pragma unroll
      for (int h = 0; h < kHeads; ++h) parts[h * kFirstThreads + threadIdx.x] = sums[h];
    }
    if (threadIdx.x == 0) group.narrow = 0;
    __syncthreads();
    const int h = threadIdx.x / 32;
    if (h < kHeads) Round<kParts>(h, parts + h * kFirstThreads);
    __syncthreads();
  }

  // Of one head by one warp.
  template <int kParts>
  __device__ void Round(int h, const float* parts) {
    // Several lanes share a dimension, or a lane has several.
    constexpr int kDimLanes = 32 % kWidth == 0 ? 32 / kWidth : 1;
    constexpr int kLaneDims = (kWidth + 31) / 32;
    const int lane = threadIdx.x % 32;
    float value[kLaneDims] = {};
    float largest = 0;
#pragma unroll
    for (int n = 0; n < kLaneDims; ++n) {
      const int i = lane % (kDimLanes > 1 ? kWidth : 32) + 32 * n;
      if (i < kWidth) {
#pragma unroll
        for (int p = 0; p < kParts / kDimLanes; ++p) {
          value[n] += parts[(p * kDimLanes + (kDimLanes > 1 ? lane / kWidth : 0)) * kWidth + i];
        }
      }
      for (int step = kWidth; kDimLanes > 1 && step < 32; step *= 2) {
        value[n] += __shfl_xor_sync(~0u, value[n], step);
      }
      largest = fmaxf(largest, fabsf(value[n]));
    }
    for (int step = 16; step > 0; step /= 2) {
      largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, step));
    }
    const float to_code = largest > 0 ? 127 / largest : 0;
    int negative = 0;
    int positive = 0;
#pragma unroll
    for (int n = 0; n < kLaneDims; ++n) {
      // Of a query so small that to_code is infinite this may be any number.
      const int code = min(max(__float2int_rn(value[n] * to_code), -127), 127);
      if (lane + 32 * n < kWidth) {
        group.codes[h][lane + 32 * n] = static_cast<int8_t>(code);
        negative += min(code, 0);
        positive += max(code, 0);
      }
    }
    const int least = 15 * __reduce_add_sync(~0u, negative);
    const int greatest = 15 * __reduce_add_sync(~0u, positive);
    if (lane == 0) {
      const float scale = largest / 127 * kLog2e * head.call.scale;
      group.scale[h] = scale;
      group.bias[h] = -scale * static_cast<float>(least + greatest) / 2;
      group.least[h] = least;
      group.greatest[h] = greatest;
      if (scale * static_cast<float>(greatest - least) <= kNarrowRange) {
        atomicAdd(&group.narrow, 1);
      }
    }
  }
};

/// Scores by whole keys: products of queries and keys, capped where the layer caps them.
struct ExactScorer {
  using Score = float;
  static constexpr int kLabelWidth = 0;
  static constexpr int kUnroll = 1;
  struct Labels {
    int position;
  };

  const DecodeHead& head;
  GroupQueries& group;
  float scale;  // of products, to units of log 2

  __device__ ExactScorer(const DecodeHead& head, GroupQueries& group)
      : head(head), group(group), scale(kLog2e * head.call.scale) {}
  __device__ static bool Serves(SelectionKind kind) { return kind == SelectionKind::kScores; }
  template <int kHeads>
  __device__ bool KnowsBias() const {
    return false;
  }
  __device__ float KeyStart() const { return 0; }
  // NaN becomes the largest of Keys: its own bits could be kForced or kAbsent.
  __device__ static uint32_t KeyOf(float score) {
    const uint32_t bits = __float_as_uint(score);
    return isnan(score) ? kForced - 1 : bits ^ ((bits >> 31) != 0 ? ~0u : 0x80000000u);
  }
  __device__ KeyRange Keys() const { return {kAbsent + 1, kForced - 1}; }
  static constexpr float kFloatStart = 0;
  static constexpr float kFloatZero = 0;
  __device__ static float FloatOf(float score) { return score; }
  __device__ void Prefetch(int, int) const {}
  __device__ Labels Load(int position) const { return {position}; }

  __device__ void ScoreTokens(const Labels& at, int h, float start,
                              float (&scores)[kLaneTokens]) const {
    const int head_dim = head.call.head_dim;
    const float* query = head.Queries() + h * head_dim;
    const ScoreCap cap(head.call.soft_cap);
#pragma unroll
    for (int t = 0; t < kLaneTokens; ++t) {
      scores[t] = start;
      if (h >= head.call.group) continue;
      const int64_t entry = head.Entry(min(at.position + t, head.context - 1));
      const auto* key = reinterpret_cast<const __half*>(head.call.kv) + entry * 2 * head_dim;
      for (int c = 0; c < head_dim; ++c) scores[t] += query[c] * static_cast<float>(key[c]);
      if (cap.limit > 0) scores[t] = cap.Apply(scale * scores[t]) / scale;
    }
  }

  template <int kHeads>
  __device__ void PrepareQueries(float*) {
    if (threadIdx.x < kHeads) {
      group.scale[threadIdx.x] = scale;
    }
    __syncthreads();
  }
};

}  // namespace winnow::cuda
