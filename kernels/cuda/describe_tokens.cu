#include <cstdint>

#include "kernels/cuda/describe_tokens.h"

// One block describes one token. Of the most probable ones, each is the largest of those that come
// after the one before: the row lies in the cache, and few are wanted.

namespace winnow::cuda {
namespace {

/// A logit and its token: larger ones come first, and among equal logits the lowest token.
using Key = unsigned long long;

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;
constexpr unsigned kFullWarp = 0xffffffff;

struct Arguments {
  const float* logits;
  int64_t stride;
  int columns;
  const WantedDescription* wanted;
  TokenLogprob* results;
};

__device__ Key KeyOf(float logit, int token) {
  const uint32_t bits = __float_as_uint(logit + 0.0f);  // negative zero is zero
  const uint32_t ordered = bits ^ ((bits >> 31) != 0 ? ~0u : 0x80000000u);
  return Key{ordered} << 32 | ~static_cast<uint32_t>(token);
}
__device__ int TokenOf(Key key) { return static_cast<int>(~static_cast<uint32_t>(key)); }

// What `combine` makes of the values of all the block's threads, for all of them.
template <typename Value, typename Combine>
__device__ Value OfBlock(Value value, const Combine& combine, Value (&of_warp)[kWarps]) {
  const auto of_lanes = [&](Value of_lane) {
    for (int lane = 16; lane > 0; lane /= 2) {
      of_lane = combine(of_lane, __shfl_xor_sync(kFullWarp, of_lane, lane));
    }
    return of_lane;
  };
  value = of_lanes(value);
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = value;
  __syncthreads();
  value = of_lanes(of_warp[threadIdx.x % 32]);
  __syncthreads();
  return value;
}

__global__ void __launch_bounds__(kThreads) DescribeTokens(const __grid_constant__ Arguments call) {
  __shared__ Key keys[kWarps];
  __shared__ double sums[kWarps];
  const WantedDescription wanted = call.wanted[blockIdx.x];
  const float* const row = call.logits + wanted.row * call.stride;
  const auto largest_below = [&](Key limit) {
    Key largest = 0;
    for (int c = threadIdx.x; c < call.columns; c += kThreads) {
      const Key key = KeyOf(row[c], c);
      if (key < limit) largest = max(largest, key);
    }
    return OfBlock(
        largest, [](Key a, Key b) { return max(a, b); }, keys);
  };

  Key next = largest_below(~Key{0});
  const float largest = row[TokenOf(next)];
  double sum = 0;
  for (int c = threadIdx.x; c < call.columns; c += kThreads) sum += expf(row[c] - largest);
  sum = OfBlock(
      sum, [](double a, double b) { return a + b; }, sums);
  const double log_sum = largest + log(sum);
  const auto describe = [&](int result, int token) {
    if (threadIdx.x != 0) return;
    call.results[wanted.result + result] = {token, static_cast<float>(row[token] - log_sum)};
  };
  describe(0, wanted.token);
  for (int i = 0; i < wanted.alternatives; ++i) {
    describe(1 + i, TokenOf(next));
    if (i + 1 < wanted.alternatives) next = largest_below(next);
  }
}

}  // namespace

cudaError_t LaunchDescribeTokens(const Tensor& logits, const WantedDescription* wanted, int count,
                                 TokenLogprob* results, cudaStream_t stream) {
  const Arguments call{.logits = static_cast<const float*>(logits.data),
                       .stride = logits.stride,
                       .columns = static_cast<int>(logits.columns),
                       .wanted = wanted,
                       .results = results};
  DescribeTokens<<<count, kThreads, 0, stream>>>(call);
  return cudaGetLastError();
}

}  // namespace winnow::cuda
