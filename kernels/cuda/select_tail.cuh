#pragma once

#include <cuda_fp16.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/budgets.cuh"
#include "kernels/cuda/cluster.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/select_keys.cuh"
#include "kernels/cuda/select_range.cuh"
#include "kernels/cuda/select_threshold.cuh"
#include "kernels/cuda/token_scorers.cuh"

// What the labels of a head's unchosen tokens say of them together: see decode_select.cu. Warps sum
// their weights, and their codes times their weights, on tensor cores: codes of some tokens are a
// first operand, with a row for each dimension, and weights the second one.

namespace winnow::cuda::select {

/// Of kernels without tails.
struct NoTail {
  static constexpr bool kCounts = false;
  static constexpr bool kWantsWeights = false;
};

/// What a block makes of its warps' sums, in place of the histograms.
template <int kWidth, int kHeads>
struct TailShared {
  static constexpr int kSums = kHeads * (1 + kWidth);
  // Warps whose sums are added up together: as many as there is room for.
  static constexpr int kRound = 32 * kSums <= 3000 ? 32 : 16 * kSums <= 3000 ? 16 : 8;
  float of_warp[kRound][kSums];  // of a head: of weights, then of codes times weights
  float of_block[kSums];
  float of_all[kSums];
  float mean_code[kWidth];  // of the summary
};

/// Marks entries of the list that a warp writes from: their keys equal the threshold; and they come
/// too late to be chosen.
inline constexpr uint32_t kEqual = 1u << 31;
inline constexpr uint32_t kLate = 1u << 30;

/// A lane's part of a product: row lane / 4 of the codes of one piece of labels, four tokens to a
/// word, is one of the nibbles of that byte of their words.
__device__ inline int TailRow() { return static_cast<int>(threadIdx.x % 32 / 4); }
__device__ inline bool IsHighNibble() { return TailRow() >= 4; }

/// The tail of a group of query heads, or with kHeads = 1 of one: see the specialisations.
template <int kWidth, int kHeads>
class TailSums;

/// Of one head. Keys are its scores, so weights relative to the threshold's come of them, in fixed
/// point: none of what is not chosen weighs more. What is chosen is left out. The sums of products
/// are exact.
template <int kWidth>
class TailSums<kWidth, 1> {
 public:
  static constexpr bool kCounts = true;
  static constexpr bool kWantsWeights = false;
  using Scorer = LabelScorer<kWidth>;
  using BlockShared = TailShared<kWidth, 1>;

  __device__ TailSums(const Scorer& scorer, Shared& shared, bool is_wanted)
      : scorer_(scorer), is_wanted_(is_wanted), shared_(shared) {}

  __device__ bool is_wanted() const { return is_wanted_; }

  /// Adds the tokens of the warp's range whose keys are below the threshold.
  __device__ void AddBelow(const Range& range, const Threshold& threshold) {
    const int cut = Cut(threshold, shared_);
    scale_ = shared_.queries.scale[0];
    bias_ = RoundedBias(cut, scale_);
    SyncCluster();  // no block reads another's histograms any more, nor lanes' keys are on the way
    const std::byte* next = scorer_.LaneAt(range.begin + Lane() * kLaneTokens);
    typename Scorer::Labels labels = Early(next);
#pragma unroll 1
    for (int base = range.begin; base < range.end; base += kStepTokens) {
      const int position = base + Lane() * kLaneTokens;
      const uint4 keys = *reinterpret_cast<const uint4*>(&range.keys[position - range.begin]);
      // Absent ones, whose key is 0, are the largest of these.
      const uint32_t over[kLaneTokens] = {keys.x - 1, keys.y - 1, keys.z - 1, keys.w - 1};
      const std::byte* const at = next;
      const typename Scorer::Labels early = labels;
      next = scorer_.LaneAt(position + kStepTokens);
      labels = Early(next);
      Add(at, early, over, [&](int t) { return over[t] < threshold.key - 1; });
    }
  }

  /// Adds those of a warp's list that are late: which is seldom.
  __device__ void Finish(const Range& range, int count, const Threshold& threshold) {
    __syncwarp();
#pragma unroll 1
    for (int begin = 0; begin < count; begin += 32) {
      const uint32_t entry = begin + Lane() < count ? range.keys[begin + Lane()] : 0;
      uint32_t late = __ballot_sync(~0u, (entry & kLate) != 0);
      for (; late != 0; late &= late - 1) {
        const int from = __ffs(static_cast<int>(late)) - 1;
        const int token = static_cast<int>(__shfl_sync(~0u, entry, from) & ~(kEqual | kLate));
        const int position = token - (token - range.begin) % kStepTokens + Lane() * kLaneTokens;
        const uint32_t equal = threshold.key - 1;
        const uint32_t over[kLaneTokens] = {equal, equal, equal, equal};
        const std::byte* const at = scorer_.LaneAt(position);
        Add(at, Early(at), over, [&](int t) { return position + t == token; });
      }
    }
  }

  /// Leaves the warp's sums of weights and of codes times weights.
  __device__ void Write(float* sums) const {
    const float weights = WarpSum(sum_);
    if (Lane() == 0) sums[0] = weights;
    const float unit = (IsHighNibble() ? 0x1p-4f : 1.0f) / kOne;
#pragma unroll
    for (int m = 0; m < kMatrices; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        if (2 * m + half >= kPieces) break;
        // Of the columns, of which the first four are of high bytes.
        float sum =
            static_cast<float>(codes_[m][2 * half]) + static_cast<float>(codes_[m][2 * half + 1]);
        if (Lane() % 4 < 2) sum *= 256;
        sum += __shfl_xor_sync(~0u, sum, 1);
        sum += __shfl_xor_sync(~0u, sum, 2);
        if (Lane() % 4 == 0) sums[1 + 16 * m + 8 * half + TailRow()] = sum * unit;
      }
    }
  }

  /// Of all tokens' weights, beside what is in the sums.
  static constexpr float kBesides = 0;

  /// 2^(scale score + bias) is the weight of a token.
  __device__ static float BiasOf(int, const Threshold& threshold, const Shared& shared) {
    const float scale = shared.queries.scale[0];
    const float rounded = RoundedBias(Cut(threshold, shared), scale);
    // Weights are of keys less one, which are scores over the least one.
    return fmaf(Scorer::kFloatZero - static_cast<float>(shared.queries.least[0]), scale, rounded);
  }

 private:
  static constexpr int kPieces = kWidth / 8;
  static constexpr int kMatrices = (kPieces + 1) / 2;  // of 16 dimensions
  static constexpr float kOne = 0x1p15f;               // in fixed point

  __device__ static int Lane() { return static_cast<int>(threadIdx.x % 32); }
  // By how much the threshold is over the least score.
  __device__ static int Cut(const Threshold& threshold, const Shared& shared) {
    return threshold.key == kForced ? shared.queries.greatest[0] - shared.queries.least[0]
                                    : static_cast<int>(threshold.key) - 1;
  }
  __device__ static float RoundedBias(int cut, float scale) {
    return -scale * (Scorer::kFloatZero + static_cast<float>(cut));
  }

  // A step's labels are asked for before the one before is added, if there are registers.
  static constexpr bool kIsEarly = kPieces <= 2;
  __device__ static typename Scorer::Labels Early(const std::byte* at) {
    return kIsEarly ? Scorer::LoadAt(at) : typename Scorer::Labels{};
  }
  __device__ static uint4 Words(const std::byte* at, const typename Scorer::Labels& early, int p) {
    if (kIsEarly) return early.words[p];
    return __ldg(reinterpret_cast<const uint4*>(at + p * 4 * kPanelTokens));
  }

  // Adds those of the lane's four tokens t for which counts(t), whose labels are at `at`, with
  // their keys less one. High bytes of weights are in a product's columns 0 to 3, and low ones in
  // the others: of tiles 0 to 3 first, then of the other tiles.
  template <typename Counts>
  __device__ void Add(const std::byte* at, const typename Scorer::Labels& early,
                      const uint32_t (&over)[kLaneTokens], const Counts& counts) {
    uint32_t fixed[kLaneTokens];  // in the low halves
#pragma unroll
    for (int t = 0; t < kLaneTokens; ++t) {
      const float score = __int_as_float(static_cast<int>(over[t]) + Scorer::kFloatStart);
      const float weight = counts(t) ? Exp2(fmaf(score, scale_, bias_)) : 0;
      sum_ += weight;
      fixed[t] = __float_as_uint(weight + 0x1p23f / kOne);
    }
    const uint32_t pairs[2] = {__byte_perm(fixed[0], fixed[1], 0x5410),
                               __byte_perm(fixed[2], fixed[3], 0x5410)};
    const uint32_t low = __byte_perm(pairs[0], pairs[1], 0x6420);
    const uint32_t high = __byte_perm(pairs[0], pairs[1], 0x7531);
    // Lane 4 i + j has those of tile i.
    const bool is_first_half = TailRow() < 4;
    const uint32_t others = __shfl_xor_sync(~0u, is_first_half ? low : high, 16);
    const uint32_t of_first_tiles = is_first_half ? high : others;
    const uint32_t of_last_tiles = is_first_half ? others : low;
#pragma unroll
    for (int m = 0; m < kMatrices; ++m) {
      uint32_t codes[2][8] = {};  // of a piece, of tiles of 16 tokens
      Arrange(Words(at, early, 2 * m), codes[0]);
      if (2 * m + 1 < kPieces) Arrange(Words(at, early, min(2 * m + 1, kPieces - 1)), codes[1]);
#pragma unroll
      for (int tile = 0; tile < 8; tile += 2) {
        const uint32_t a[4] = {codes[0][tile], codes[1][tile], codes[0][tile + 1],
                               codes[1][tile + 1]};
        const uint32_t weights = tile < 4 ? of_first_tiles : of_last_tiles;
        MmaBytes(codes_[m], a, TailRow() % 4 == tile % 4 ? weights : 0,
                 TailRow() % 4 == tile % 4 + 1 ? weights : 0);
      }
    }
  }

  // The lane's dimension of lane % 4's four tokens of each tile, from all lanes' words: bytes, in
  // units of 16 where they are high nibbles.
  __device__ void Arrange(const uint4& words, uint32_t (&codes)[8]) {
    constexpr int kWarpWords = 4 * 32;
    static_assert(kMaxWarps * kWarpWords * 4 <= sizeof(shared_.histograms));
    uint32_t* const mine = &shared_.histograms[0][0] + threadIdx.x / 32 * kWarpWords;
    const uint32_t first[2] = {__byte_perm(words.x, words.y, 0x5140),
                               __byte_perm(words.z, words.w, 0x5140)};
    const uint32_t second[2] = {__byte_perm(words.x, words.y, 0x7362),
                                __byte_perm(words.z, words.w, 0x7362)};
    const uint32_t bytes[4] = {
        __byte_perm(first[0], first[1], 0x5410), __byte_perm(first[0], first[1], 0x7632),
        __byte_perm(second[0], second[1], 0x5410), __byte_perm(second[0], second[1], 0x7632)};
    // Byte b of a tile is a row of a matrix, kept where other bytes' rows of it are in other banks.
    const auto row = [](int b, int tile) { return (b * 8 + (tile ^ (2 * b))) * 4; };
    __syncwarp();
#pragma unroll
    for (int b = 0; b < 4; ++b) mine[row(b, Lane() / 4) + Lane() % 4] = bytes[b];
    __syncwarp();
    const uint32_t mask = IsHighNibble() ? 0xf0f0f0f0 : 0x0f0f0f0f;
#pragma unroll
    for (int tile = 0; tile < 8; tile += 4) {
      uint32_t four[4];
      LoadMatrices(four, static_cast<uint32_t>(
                             __cvta_generic_to_shared(&mine[row(Lane() % 4, tile + Lane() / 8)])));
#pragma unroll
      for (int i = 0; i < 4; ++i) codes[tile + i] = four[i] & mask;
    }
  }

  const Scorer& scorer_;
  const bool is_wanted_;
  Shared& shared_;
  float scale_ = 0;
  float bias_ = 0;
  float sum_ = 0;
  int codes_[kMatrices][4] = {};  // results of products
};

/// Of several heads: of all tokens, as their weights are made for the choice, less the chosen ones.
/// A column of a product is one head's weights of a tile of 16 tokens: kHeads padded heads leave
/// room for 8 / kHeads tiles, each with columns of its own, and a tile's product takes the other
/// tiles' weights for zeros. Weights are softmax weights, rounded to 16 bits, with so large a unit
/// that no number of tokens is lost that matters; those of chosen tokens are rounded alike, and
/// vanish.
template <int kWidth, int kHeads>
class TailSums {
 public:
  static constexpr bool kCounts = true;
  static constexpr bool kWantsWeights = true;
  using Scorer = LabelScorer<kWidth>;
  using BlockShared = TailShared<kWidth, kHeads>;

  __device__ TailSums(const Scorer& scorer, Shared& shared, bool is_wanted)
      : scorer_(scorer), is_wanted_(is_wanted), shared_(shared) {}

  __device__ bool is_wanted() const { return is_wanted_; }

  /// Takes head h's weights of the lane's four tokens, of which the first `valid` are there; they
  /// come to softmax weights by the factor.
  __device__ void Take(int h, float factor, const float (&weights)[kLaneTokens], int valid) {
    const auto pair = [&](int t) {
      const uint32_t mask = valid >= t + 2 ? ~0u : valid == t + 1 ? 0xffffu : 0;
      return mask &
             Pack(__half(Weight(weights[t], factor)), __half(Weight(weights[t + 1], factor)));
    };
    taken_[h][0] = pair(0);
    taken_[h][1] = pair(2);
  }

  /// Adds what was taken of all heads, of the four tokens at the lane's position.
  __device__ void AddTaken(int position) {
    if (!is_wanted_) return;
    const std::byte* const at = scorer_.LaneAt(position);
    constexpr int kLanes = 32 / kHeads;  // that have the tokens of kTiles tiles
    // Not in use while keys are made.
    static_assert(kMaxWarps * 32 * sizeof(uint2) <= sizeof(shared_.histograms[1]));
    auto* const staged = reinterpret_cast<uint2*>(shared_.histograms[1]) + threadIdx.x / 32 * 32;
#pragma unroll 1
    for (int begin = 0; begin < 32; begin += kLanes) {
      const auto load = [&](int tile) {
        const int from = begin + 4 * tile + Lane() % 4;
        return Scorer::LoadAt(reinterpret_cast<const std::byte*>(
            __shfl_sync(~0u, reinterpret_cast<unsigned long long>(at), from)));
      };
      // Asked for before others are waited for, as far as there are registers.
      constexpr int kEarly = kPieces * kTiles <= 4 ? kTiles : 1;
      typename Scorer::Labels labels[kTiles];
#pragma unroll
      for (int tile = 0; tile < kEarly; ++tile) labels[tile] = load(tile);
      __syncwarp();
      const int mine = Lane() - begin;
      if (mine >= 0 && mine < kLanes) {
#pragma unroll
        for (int h = 0; h < kHeads; ++h) {
          staged[(mine / 4 * kHeads + h) * 4 + mine % 4] = {taken_[h][0], taken_[h][1]};
        }
      }
      __syncwarp();
      const uint2 weights = staged[Lane()];
      Products products = {};
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        if (tile >= kEarly) labels[tile] = load(tile);
        AddTile(tile, labels[tile], weights, products);
      }
      AddUp(products);
    }
  }

  /// Takes those of a warp's list off that are not late.
  __device__ void Finish(const Range& range, int count, const Threshold&) {
    __syncwarp();
    const int h = TailRow() % kHeads;
    const float factor = shared_.factor[h];
#pragma unroll 1
    for (int begin = 0; begin < count; begin += kTiles * kPanelTokens) {
      const int first = begin + TailRow() / kHeads * kPanelTokens + Lane() % 4 * kLaneTokens;
      const uint4 four = *reinterpret_cast<const uint4*>(&range.keys[first]);
      const uint32_t entries[kLaneTokens] = {four.x, four.y, four.z, four.w};
      typename Scorer::Labels labels;
#pragma unroll
      for (int t = 0; t < kLaneTokens; ++t) {
        const uint32_t position =
            first + t < count ? entries[t] & ~(kEqual | kLate) : static_cast<uint32_t>(range.begin);
        const std::byte* const at = scorer_.At(static_cast<int>(position));
#pragma unroll
        for (int p = 0; p < kPieces; ++p) {
          Word(labels.words[p], t) =
              __ldg(reinterpret_cast<const uint32_t*>(at + p * 4 * kPanelTokens));
        }
      }
      float weights[kLaneTokens];
      WeighTokens(scorer_, labels, h, shared_.queries, weights);
#pragma unroll
      for (int t = 0; t < kLaneTokens; ++t) {
        const bool is_chosen = first + t < count && (entries[t] & kLate) == 0;
        weights[t] = is_chosen ? -Weight(weights[t], factor) : 0;
        sum_ += weights[t];
      }
      const uint2 pairs = {Pack(__half(weights[0]), __half(weights[1])),
                           Pack(__half(weights[2]), __half(weights[3]))};
      Products products = {};
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        typename Scorer::Labels of_tile;
        const int from = 4 * kHeads * tile + Lane() % 4;
#pragma unroll
        for (int p = 0; p < kPieces; ++p) {
#pragma unroll
          for (int t = 0; t < kLaneTokens; ++t) {
            Word(of_tile.words[p], t) = __shfl_sync(~0u, Word(labels.words[p], t), from);
          }
        }
        AddTile(tile, of_tile, pairs, products);
      }
      AddUp(products);
    }
  }

  /// Leaves the warp's sums of weights and of codes times weights, of each head.
  __device__ void Write(float* sums) {
    // Adds up what lanes have of the same head: of the first tile's columns, the first lanes have
    // all. A lane has columns 2 j and 2 j + 1, with j = lane % 4.
    sum_ += __shfl_xor_sync(~0u, sum_, 1);
    sum_ += __shfl_xor_sync(~0u, sum_, 2);
#pragma unroll
    for (int lanes = 4 * kHeads; lanes < 32; lanes *= 2) {
      sum_ += __shfl_xor_sync(~0u, sum_, lanes);
    }
#pragma unroll
    for (int m = 0; m < kMatrices; ++m) {
#pragma unroll
      for (int lanes = kHeads / 2; lanes < 4; lanes *= 2) {
#pragma unroll
        for (float& x : codes_[m]) x += __shfl_xor_sync(~0u, x, lanes);
      }
    }
    const int j = Lane() % 4;
    if (TailRow() < kHeads && j == 0) sums[TailRow() * (1 + kWidth)] = sum_;
    if (2 * j >= kHeads) return;
    const float unit = IsHighNibble() ? 0x1p20f : 0x1p24f;
#pragma unroll
    for (int m = 0; m < kMatrices; ++m) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        if (2 * m + e / 2 >= kPieces) break;
        sums[(2 * j + e % 2) * (1 + kWidth) + 1 + 16 * m + 8 * (e / 2) + TailRow()] =
            codes_[m][e] * unit;
      }
    }
  }

  /// Of all tokens' weights, beside what is in the sums: all softmax weights.
  static constexpr float kBesides = 0x1p15f;

  /// 2^(scale score + bias) is the weight of a token of the head.
  __device__ static float BiasOf(int h, const Threshold&, const Shared& shared) {
    return log2f(kBesides) + log2f(shared.factor[h]) +
           fmaf(Scorer::kFloatZero, shared.queries.scale[h], FloatBias<Scorer>(shared.queries, h));
  }

 private:
  static constexpr int kPieces = kWidth / 8;
  static constexpr int kTiles = 8 / kHeads;
  static constexpr int kMatrices = (kPieces + 1) / 2;  // of 16 dimensions

  // Of a few tiles. Tensor cores cut what they add off at 2^-24 of the largest, all of it
  // downwards: so sums over many tokens are made apart.
  struct Products {
    float of[kMatrices][4];
  };

  __device__ static int Lane() { return static_cast<int>(threadIdx.x % 32); }
  __device__ void AddUp(const Products& products) {
#pragma unroll
    for (int m = 0; m < kMatrices; ++m) {
#pragma unroll
      for (int e = 0; e < 4; ++e) codes_[m][e] += products.of[m][e];
    }
  }
  __device__ static float Weight(float weight, float factor) {
    return __fmul_rn(weight, factor * kBesides);
  }
  __device__ static uint32_t& Word(uint4& words, int t) {
    return t == 0 ? words.x : t == 1 ? words.y : t == 2 ? words.z : words.w;
  }

  // The lane's dimension of two tokens as halves. As they stand codes are subnormal ones, in units
  // of 2^-24 or, high nibbles, of 2^-20.
  __device__ static uint32_t CodePair(uint32_t first, uint32_t second) {
    const uint32_t byte = TailRow() % 4;
    const uint32_t mask = IsHighNibble() ? 0x00f000f0 : 0x000f000f;
    return __byte_perm(first, second, byte * 0x11 + (4 + byte) * 0x1100) & mask;
  }

  // Adds codes times weights of the tile whose tokens' labels lanes 0 to 3 have, as all others.
  __device__ static void AddTile(int tile, const typename Scorer::Labels& labels,
                                 const uint2& weights, Products& products) {
    const bool is_own = kTiles == 1 || TailRow() / kHeads == tile;
    const uint32_t b0 = is_own ? weights.x : 0;
    const uint32_t b1 = is_own ? weights.y : 0;
#pragma unroll
    for (int m = 0; m < kMatrices; ++m) {
      const uint4& even = labels.words[2 * m];
      uint32_t a[4] = {CodePair(even.x, even.y), 0, CodePair(even.z, even.w), 0};
      if (2 * m + 1 < kPieces) {
        const uint4& odd = labels.words[min(2 * m + 1, kPieces - 1)];
        a[1] = CodePair(odd.x, odd.y);
        a[3] = CodePair(odd.z, odd.w);
      }
      Mma(products.of[m], a, b0, b1);
    }
  }

  const Scorer& scorer_;
  const bool is_wanted_;
  Shared& shared_;
  uint32_t taken_[kHeads][2] = {};  // halves
  float sum_ = 0;                   // of the lane's head and tiles
  float codes_[kMatrices][4] = {};  // results of products
};

/// Leaves the block's sums of its warps'.
template <int kWidth, int kHeads>
__device__ inline void ShareTail(TailSums<kWidth, kHeads>& tail,
                                 TailShared<kWidth, kHeads>& shared) {
  constexpr int kSums = TailShared<kWidth, kHeads>::kSums;
  constexpr int kRound = TailShared<kWidth, kHeads>::kRound;
  constexpr int kThreadSums = CeilDivide(kSums, kFirstThreads);
  const int warp = threadIdx.x / 32;
  float totals[kThreadSums] = {};
#pragma unroll 1
  for (int first = 0; first < BlockWarps(); first += kRound) {
    __syncthreads();
    if (warp / kRound * kRound == first) tail.Write(shared.of_warp[warp - first]);
    __syncthreads();
    if (threadIdx.x >= kFirstThreads) continue;
#pragma unroll
    for (int n = 0; n < kThreadSums; ++n) {
      const int i = threadIdx.x + n * kFirstThreads;
      if (i >= kSums) break;
      const int count = min(kRound, BlockWarps() - first);
#pragma unroll 8
      for (int w = 0; w < count; ++w) totals[n] += shared.of_warp[w][i];
    }
  }
  if (threadIdx.x >= kFirstThreads) return;
#pragma unroll
  for (int n = 0; n < kThreadSums; ++n) {
    const int i = threadIdx.x + n * kFirstThreads;
    if (i < kSums) shared.of_block[i] = totals[n];
  }
}

/// Asks for what the tail of the row's head is estimated by.
__device__ inline void PrefetchEstimate(const DecodeAttention& call, const float* estimate) {
  constexpr int kLineFloats = 32;
  const SummaryShape shape = {call.label_width, call.head_dim};
  for (int i = threadIdx.x * kLineFloats; i < shape.read_floats(); i += blockDim.x * kLineFloats) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(estimate + i));
  }
}

/// What makes a piece of the softmax of a head's tail. What does not depend on the sums is read
/// while they are made.
template <int kWidth, int kHeads>
class TailEstimate {
 public:
  using Tail = TailSums<kWidth, kHeads>;

  __device__ TailEstimate(const DecodeHead& head, const float* estimate, const Shared& shared)
      : head_(head),
        dim_(head.call.head_dim),
        mean_value_(estimate + kWidth),
        slopes_(mean_value_ + 2 * dim_),
        first_(ClusterRank() * blockDim.x + threadIdx.x) {
    if (threadIdx.x < kWidth) mean_code_ = estimate[threadIdx.x];
    const int h = threadIdx.x / 32;
    if (ClusterRank() == 0 && h < head.call.group) {
      const int lane = threadIdx.x % 32;
      const float* const mean_key = mean_value_ + dim_;
      const float* const query = head.Queries() + h * dim_;
      float dot = 0;
      for (int c = lane; c < dim_; c += 32) dot += query[c] * mean_key[c];
      above_ = kLog2e * head.call.scale * dot;
      if (lane < kWidth) {
        above_ -= shared.queries.scale[h] * static_cast<float>(shared.queries.codes[h][lane]) *
                  estimate[lane];
      }
    }
    if (first_ >= head.call.group * dim_) return;
    const int c = first_ % dim_;
    value_ = mean_value_[c];
#pragma unroll
    for (int i = 0; i < kEarly; ++i) of_first_[i] = slopes_[i * dim_ + c];
  }

  /// Writes DecodeAttention::tails from what all blocks of the cluster have shared.
  __device__ void Write(float weight, const Threshold& threshold, const Shared& shared,
                        TailShared<kWidth, kHeads>& sums) const {
    for (int i = threadIdx.x; i < sums.kSums; i += blockDim.x) {
      float total = i % (1 + kWidth) == 0 ? Tail::kBesides : 0;
      for (int rank = 0; rank < ClusterSize(); ++rank) total += *OfRank(&sums.of_block[i], rank);
      // What sums of all tokens' weights cannot tell from nothing.
      if (i % (1 + kWidth) == 0 && total < 0x1p-18f * Tail::kBesides) total = 0;
      sums.of_all[i] = total;
    }
    if (threadIdx.x < kWidth) sums.mean_code[threadIdx.x] = mean_code_;
    __syncthreads();
    const int group = head_.call.group;
    float* const tails = head_.call.tails + int64_t{head_.item} * group * (1 + dim_);
    const int h = threadIdx.x / 32;
    if (ClusterRank() == 0 && h < group) {
      const float above = WarpSum(above_);
      const float bias = Tail::BiasOf(h, threshold, shared);
      if (threadIdx.x % 32 == 0) {
        tails[h * (1 + dim_)] = log2f(weight) + above + log2f(sums.of_all[h * (1 + kWidth)]) - bias;
      }
    }
    if (first_ >= group * dim_) return;
    const int first = first_ % dim_;
    WriteValue(
        first_, value_, sums,
        [&](int i) {
          return i < kEarly ? of_first_[min(i, kEarly - 1)] : slopes_[i * dim_ + first];
        },
        tails);
    const int threads = ClusterSize() * blockDim.x;
    for (int x = first_ + threads; x < group * dim_; x += threads) {
      const int c = x % dim_;
      WriteValue(
          x, mean_value_[c], sums, [&](int i) { return slopes_[i * dim_ + c]; }, tails);
    }
  }

 private:
  template <typename Slope>
  __device__ void WriteValue(int x, float value, const TailShared<kWidth, kHeads>& sums,
                             const Slope& slope, float* tails) const {
    const int h = x / dim_;
    const float* const mine = &sums.of_all[h * (1 + kWidth)];
    const float inverse = mine[0] > 0 ? 1 / mine[0] : 0;
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      value = fmaf(mine[1 + i] * inverse - sums.mean_code[i], slope(i), value);
    }
    tails[h * (1 + dim_) + 1 + x % dim_] = value;
  }

  static constexpr int kEarly = kWidth < 16 ? kWidth : 16;  // slopes: there are few registers

  const DecodeHead& head_;
  const int dim_;
  const float* const mean_value_;
  const float* const slopes_;
  const int first_;         // of the values that the thread writes
  float mean_code_ = 0;     // of the thread's dimension
  float above_ = 0;         // the lane's part of by how much scores lie above those of labels
  float value_ = 0;         // the mean value of the first one
  float of_first_[kEarly];  // its first slopes
};

}  // namespace winnow::cuda::select
