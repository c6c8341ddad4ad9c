#include <cstdint>

#include "kernels/cuda/choose_tokens.h"
#include "kernels/cuda/math.cuh"

// One block chooses one token. Nothing is sorted: in the order of probabilities, the first token at
// which a sum (of tokens for top-k, of weights for top-p and for the draw) reaches some value is
// found by histograms of the sums over ever narrower ranges of weights. Weights are integers in
// these sums, which therefore do not depend on the order of additions.

namespace winnow::cuda {
namespace {

using Sum = unsigned long long;

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;
constexpr int kBinBits = 11;
constexpr int kBins = 1 << kBinBits;
constexpr unsigned kFullWarp = 0xffffffff;
static_assert(kBins == 2 * kThreads);

struct Arguments {
  const float* logits;
  int64_t stride;
  int columns;
  const DeviceChoice* choices;
  float* scratch;
  int32_t* tokens;
};

struct Shared {
  Sum bins[kBins];
  Sum of_warp[kWarps];
  struct {
    int bin;  // -1: none
    Sum before;
  } found;
  int token;
};

// Of what is kept: weights whose bits are above `key`, and the first `ties` of those equal to it.
struct Cut {
  uint32_t key;
  uint32_t ties;
};

__device__ Sum InclusiveScan(Sum value) {
  for (int step = 1; step < 32; step *= 2) {
    const Sum below = __shfl_up_sync(kFullWarp, value, step);
    if (threadIdx.x % 32 >= step) value += below;
  }
  return value;
}

// The sum over the block, for all threads.
__device__ Sum BlockSum(Sum value, Shared& shared) {
  value = WarpSum(value);
  if (threadIdx.x % 32 == 0) shared.of_warp[threadIdx.x / 32] = value;
  __syncthreads();
  const Sum sum = WarpSum(shared.of_warp[threadIdx.x % 32]);
  __syncthreads();
  return sum;
}

// The sum over the warps before this one, of values that are the same for a warp's lanes.
__device__ Sum SumOfWarpsBefore(Sum value, Shared& shared) {
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  if (lane == 0) shared.of_warp[warp] = value;
  __syncthreads();
  const Sum sum = WarpSum(lane < warp ? shared.of_warp[lane] : 0);
  __syncthreads();
  return sum;
}

struct CountOf {
  __device__ Sum operator()(uint32_t) const { return 1; }
};

struct WeightOf {
  __device__ Sum operator()(uint32_t key) const {
    return __float2ull_rz(__uint_as_float(key) * 0x1p40f);
  }
};

// Bits of a row's weights, which are in their order.
struct Weights {
  const float* of_token;
  int count;

  __device__ uint32_t Key(int token) const { return __float_as_uint(of_token[token]); }
};

// Finds the bin, from above, at which the sum reaches `target`, and the sum before it.
__device__ void FindBin(Sum target, Shared& shared) {
  const int first = kBins - 1 - 2 * static_cast<int>(threadIdx.x);
  const Sum a = shared.bins[first];
  const Sum b = shared.bins[first - 1];
  if (threadIdx.x == 0) shared.found = {-1, 0};
  const Sum inclusive = InclusiveScan(a + b);
  const Sum of_warp = __shfl_sync(kFullWarp, inclusive, 31);
  const Sum before = SumOfWarpsBefore(of_warp, shared) + inclusive - (a + b);
  if (before < target && before + a + b >= target) {
    const bool is_first = before + a >= target;
    shared.found = {is_first ? first : first - 1, is_first ? before : before + a};
  }
  __syncthreads();
}

// In descending order of what `kept` keeps, where the sum of measures first reaches `target` (at
// least 1): what is up to there. All of it, if the sum is less.
template <typename Measure>
__device__ Cut UpTo(Sum target, const Weights& weights, const Cut& kept, const Measure& measure,
                    Shared& shared) {
  uint32_t prefix = 0;
  int low = 32;  // bits below the prefix
  while (low > 0) {
    const int bits = min(low, kBinBits);
    const int shift = low - bits;
    const auto add = [&](uint32_t key, Sum value) {
      if (static_cast<uint64_t>(key) >> low != prefix) return;
      atomicAdd(&shared.bins[key >> shift & ((1u << bits) - 1)], value);
    };
    for (int i = threadIdx.x; i < kBins; i += kThreads) shared.bins[i] = 0;
    __syncthreads();
    for (int token = threadIdx.x; token < weights.count; token += kThreads) {
      const uint32_t key = weights.Key(token);
      if (key > kept.key) add(key, measure(key));
    }
    if (threadIdx.x == 0 && kept.ties > 0) add(kept.key, kept.ties * measure(kept.key));
    __syncthreads();
    FindBin(target, shared);
    const auto [bin, before] = shared.found;
    if (bin < 0) return kept;
    target -= before;
    prefix = prefix << bits | static_cast<uint32_t>(bin);
    low = shift;
    __syncthreads();  // all have read what was found
  }
  const Sum each = measure(prefix);
  return {prefix, static_cast<uint32_t>((target + each - 1) / each)};
}

template <typename Measure>
__device__ Sum SumOf(const Weights& weights, const Cut& kept, const Measure& measure,
                     Shared& shared) {
  Sum sum = threadIdx.x == 0 && kept.ties > 0 ? kept.ties * measure(kept.key) : 0;
  for (int token = threadIdx.x; token < weights.count; token += kThreads) {
    const uint32_t key = weights.Key(token);
    if (key > kept.key) sum += measure(key);
  }
  return BlockSum(sum, shared);
}

// In ascending order of ids, the token at which the sum of measures reaches `target`. Each warp has
// a range of tokens. REQUIRES: the sum of all does.
template <typename Measure>
__device__ int FirstReaching(Sum target, const Weights& weights, const Measure& measure,
                             Shared& shared) {
  const int lane = threadIdx.x % 32;
  const int range = (weights.count + kThreads - 1) / kThreads * 32;
  const int begin = static_cast<int>(threadIdx.x / 32) * range;
  const int end = min(weights.count, begin + range);
  Sum sum = 0;
  for (int token = begin + lane; token < end; token += 32) sum += measure(weights.Key(token));
  sum = WarpSum(sum);
  Sum before = SumOfWarpsBefore(sum, shared);
  if (before < target && before + sum >= target) {
    for (int first = begin;; first += 32) {
      const int token = first + lane;
      const Sum reached = before + InclusiveScan(token < end ? measure(weights.Key(token)) : 0);
      const unsigned reaching = __ballot_sync(kFullWarp, reached >= target);
      if (reaching != 0) {
        if (lane == 0) shared.token = first + __ffs(static_cast<int>(reaching)) - 1;
        break;
      }
      before = __shfl_sync(kFullWarp, reached, 31);
    }
  }
  __syncthreads();
  return shared.token;
}

// A logit and its token as one number: the larger logit, then the lower token is larger. NaN is
// larger than all.
__device__ Sum Rank(float logit, int token) {
  const unsigned bits = __float_as_uint(logit);
  const unsigned ordered =
      isnan(logit) ? 0xffffffff : bits ^ (bits >> 31 ? 0xffffffff : 0x80000000);
  return static_cast<Sum>(ordered) << 32 | ~static_cast<unsigned>(token);
}

// The token of the largest logit, or of one that is NaN.
__device__ int LargestLogit(const float* row, int columns, Shared& shared) {
  const auto fold = [](Sum best) {
    for (int lane = 16; lane > 0; lane /= 2) {
      best = max(best, __shfl_xor_sync(kFullWarp, best, lane));
    }
    return best;
  };
  Sum best = 0;
#pragma unroll 8
  for (int c = threadIdx.x; c < columns; c += kThreads) best = max(best, Rank(row[c], c));
  best = fold(best);
  if (threadIdx.x % 32 == 0) shared.of_warp[threadIdx.x / 32] = best;
  __syncthreads();
  best = fold(shared.of_warp[threadIdx.x % 32]);
  __syncthreads();
  return static_cast<int>(~static_cast<unsigned>(best));
}

// As on the CPU, without fused operations.
__device__ float Edited(float logit, const LogitEdit& edit, const TokenChoice& choice) {
  logit += edit.bias;
  if (edit.count < 0) return logit;
  logit = logit > 0 ? logit / choice.repetition_penalty : logit * choice.repetition_penalty;
  if (edit.count == 0) return logit;
  logit -= choice.presence_penalty;
  return __fsub_rn(logit, __fmul_rn(choice.frequency_penalty, static_cast<float>(edit.count)));
}

__device__ int Draw(const Weights& weights, const TokenChoice& choice, Shared& shared) {
  const bool has_top_k = choice.top_k > 0 && choice.top_k < weights.count;
  Cut kept = {0, 0};  // what weighs something
  if (has_top_k) kept = UpTo(choice.top_k, weights, kept, CountOf(), shared);
  if (choice.top_p < 1) {
    const auto total = static_cast<double>(SumOf(weights, kept, WeightOf(), shared));
    const Sum target = __double2ull_ru(choice.top_p * total);
    kept = UpTo(target < 1 ? 1 : target, weights, kept, WeightOf(), shared);
  }
  const uint32_t least = __float_as_uint(choice.min_p);
  if (kept.key < least) kept = {least - 1, 0};

  const Sum total = SumOf(weights, kept, WeightOf(), shared);
  const Sum target = min(total, __double2ull_rd(choice.uniform * static_cast<double>(total)) + 1);
  if (has_top_k || choice.top_p < 1) {
    const Cut up_to = UpTo(target, weights, kept, WeightOf(), shared);
    const auto is_last = [&](uint32_t key) { return Sum{key == up_to.key}; };
    return FirstReaching(up_to.ties, weights, is_last, shared);
  }
  const auto weight = [&](uint32_t key) { return key > kept.key ? WeightOf()(key) : 0; };
  return FirstReaching(target, weights, weight, shared);
}

__global__ void __launch_bounds__(kThreads) ChooseTokens(const __grid_constant__ Arguments call) {
  __shared__ Shared shared;
  const DeviceChoice& mine = call.choices[blockIdx.x];
  const TokenChoice& choice = mine.choice;
  const int columns = call.columns;
  const float* row = call.logits + choice.row * call.stride;
  float* const scratch = call.scratch + int64_t{blockIdx.x} * columns;
  if (mine.edit_count > 0) {
    for (int c = threadIdx.x; c < columns; c += kThreads) scratch[c] = row[c];
    __syncthreads();
    for (int i = threadIdx.x; i < mine.edit_count; i += kThreads) {
      float& logit = scratch[mine.edits[i].token];
      logit = Edited(logit, mine.edits[i], choice);
    }
    __syncthreads();
    row = scratch;
  }
  int token = LargestLogit(row, columns, shared);
  const float largest = row[token];
  if (!isfinite(largest)) {
    token = largest == -INFINITY && mine.edit_count > 0 ? kNoTokenLeft : kLogitsNotFinite;
  } else if (choice.temperature != 0) {
    __syncthreads();  // all have read the largest, which its weight may replace
    for (int c = threadIdx.x; c < columns; c += kThreads) {
      scratch[c] = expf((row[c] - largest) / choice.temperature);
    }
    __syncthreads();
    token = Draw({scratch, columns}, choice, shared);
  }
  if (threadIdx.x == 0) call.tokens[blockIdx.x] = token;
}

}  // namespace

cudaError_t LaunchChooseTokens(const Tensor& logits, const DeviceChoice* choices, int count,
                               float* scratch, int32_t* tokens, cudaStream_t stream) {
  const Arguments call{.logits = static_cast<const float*>(logits.data),
                       .stride = logits.stride,
                       .columns = static_cast<int>(logits.columns),
                       .choices = choices,
                       .scratch = scratch,
                       .tokens = tokens};
  ChooseTokens<<<count, kThreads, 0, stream>>>(call);
  return cudaGetLastError();
}

}  // namespace winnow::cuda
