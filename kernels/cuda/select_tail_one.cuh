#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/cluster.cuh"
#include "kernels/cuda/math.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/select_range.cuh"
#include "kernels/cuda/select_tail.cuh"
#include "kernels/cuda/select_threshold.cuh"
#include "kernels/cuda/token_scorers.cuh"

namespace winnow::cuda::select {

/// Of one head. Keys are its scores, so weights relative to the threshold's come of them: none of
/// what is not chosen weighs more. What is chosen is left out. Those of the sample are in fixed
/// point, and the sums of their products exact.
template <int kWidth>
class TailSums<kWidth, 1> {
 public:
  static constexpr bool kCounts = true;
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
    const std::byte* next = scorer_.LaneAt(range.begin + SampledOffset());
    typename Scorer::Labels labels = Early(next);
    // Absent tokens, whose key is 0, come to the largest of these.
    const uint32_t below = threshold.key - 1;
    for (int step = 0; step < range.Steps(); ++step) {
      const uint4 keys = range.LaneKeys(step);
      const uint32_t over[kLaneTokens] = {keys.x - 1, keys.y - 1, keys.z - 1, keys.w - 1};
#pragma unroll
      for (int t = 0; t < kLaneTokens; ++t) sum_ += over[t] < below ? Weight(over[t]) : 0;
    }
#pragma unroll 1
    for (int base = range.begin; base < range.end; base += kSampleTokens) {
      const int position = base + SampledOffset();
      const uint4 keys = SampledKeys(range, position);
      const uint32_t over[kLaneTokens] = {keys.x - 1, keys.y - 1, keys.z - 1, keys.w - 1};
      const std::byte* const at = next;
      const typename Scorer::Labels early = labels;
      next = scorer_.LaneAt(position + kSampleTokens);
      labels = Early(next);
      Add(at, early, over, [&](int t) { return over[t] < below; });
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
        if (Lane() == 0) sum_ += Weight(equal);
        if (!IsSampled(token)) continue;
        const std::byte* const at = scorer_.LaneAt(position);
        Add(at, Early(at), over, [&](int t) { return position + t == token; });
      }
    }
  }

  /// Leaves the warp's sums, as TailShared has them.
  __device__ void Write(float* sums) const {
    const float weights = WarpSum(sum_);
    const float sampled = WarpSum(sampled_);
    if (Lane() == 0) sums[0] = weights;
    if (Lane() == 0) sums[1] = sampled;
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
        if (Lane() % 4 == 0) sums[2 + 16 * m + 8 * half + TailRow()] = sum * unit;
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

  // Of a token whose score is so far above the least one.
  __device__ float Weight(uint32_t over) const {
    const float score = __int_as_float(static_cast<int>(over) + Scorer::kFloatStart);
    return Exp2(fmaf(score, scale_, bias_));
  }

  // Of the warp, in place of the histograms.
  __device__ uint32_t* Exchange() {
    static_assert(kMaxWarps * kCodeWords * sizeof(uint32_t) <= sizeof(shared_.histograms));
    return &shared_.histograms[0][0] + threadIdx.x / 32 * kCodeWords;
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
      const float rounded = (counts(t) ? Weight(over[t]) : 0) + 0x1p23f / kOne;
      sampled_ += rounded - 0x1p23f / kOne;
      fixed[t] = __float_as_uint(rounded);
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
      uint32_t codes[2][2][4] = {};  // of a piece, of tiles of 16 tokens
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        if (2 * m + half >= kPieces) break;
        __syncwarp();
        ShareCodes(Words(at, early, min(2 * m + half, kPieces - 1)), Exchange());
        __syncwarp();
        LoadCodes(Exchange(), 0, codes[half][0]);
        LoadCodes(Exchange(), 4, codes[half][1]);
      }
#pragma unroll
      for (int tile = 0; tile < 8; tile += 2) {
        const auto of = [&](int half, int t) { return codes[half][t / 4][t % 4]; };
        const uint32_t a[4] = {of(0, tile), of(1, tile), of(0, tile + 1), of(1, tile + 1)};
        const uint32_t weights = tile < 4 ? of_first_tiles : of_last_tiles;
        MmaBytes(codes_[m], a, TailRow() % 4 == tile % 4 ? weights : 0,
                 TailRow() % 4 == tile % 4 + 1 ? weights : 0);
      }
    }
  }

  const Scorer& scorer_;
  const bool is_wanted_;
  Shared& shared_;
  float scale_ = 0;
  float bias_ = 0;
  float sum_ = 0;
  float sampled_ = 0;
  int codes_[kMatrices][4] = {};  // results of products
};

}  // namespace winnow::cuda::select
