#include <cuda_fp16.h>

#include "kernels/cuda/budgets.cuh"
#include "kernels/cuda/math.cuh"
#include "kernels/cuda/recall.h"

namespace winnow::cuda {
namespace {

constexpr int kWarps = 16;
constexpr int kThreads = 32 * kWarps;
constexpr int kMaxLaneDims = 8;  // of a head of at most 256
constexpr unsigned kFullWarp = 0xffffffff;

// Softmax mass relative to the largest score, which keeps sums in fp32's range. Scores are in units
// of log 2.
struct Mass {
  float largest = -INFINITY;
  float sum = 0;

  __device__ void Add(float score) { Add({score, 1}); }
  __device__ void Add(const Mass& other) {
    if (other.sum == 0) return;
    const float larger = fmaxf(largest, other.largest);
    sum = sum * Exp2(largest - larger) + other.sum * Exp2(other.largest - larger);
    largest = larger;
  }
};

// One block a probe, a warp a token at a time.
__global__ void __launch_bounds__(kThreads)
    MeasureRecall(const __grid_constant__ DecodeAttention call,
                  const __grid_constant__ BudgetWeights weights,
                  const __grid_constant__ TailWeights tail_weights, const DecodeProbe* probes,
                  ProbedMass* probed) {
  __shared__ Mass all[kWarps];
  __shared__ Mass chosen[kWarps];
  const DecodeProbe probe = probes[blockIdx.x];
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int head = probe.row * call.kv_heads + probe.kv_head;
  const int context = call.contexts[probe.row];
  const int budget = BudgetOf(call, weights, probe.row, probe.kv_head);
  if (budget >= context) {
    if (threadIdx.x == 0) probed[blockIdx.x] = ProbedMass();
    return;
  }
  const auto* keys = reinterpret_cast<const __half*>(call.kv);
  const int32_t* table = call.block_tables + int64_t{call.sequences[probe.row]} * call.max_blocks;
  const uint32_t* selected = call.selected + int64_t{head} * call.max_selected;
  const float scale = kLog2e * call.scale;
  const ScoreCap cap(call.soft_cap);
  const bool has_tail = TailOf(call, weights, tail_weights, probe.row, probe.kv_head) > 0;
  float recall = 0;
  float estimated = 0;
  for (int h = 0; h < call.group; ++h) {
    const float* query = call.queries + call.query_rows[probe.row] * call.query_stride +
                         (probe.kv_head * call.group + h) * call.head_dim;
    float q[kMaxLaneDims];
#pragma unroll
    for (int i = 0; i < kMaxLaneDims; ++i) {
      const int c = lane + 32 * i;
      q[i] = c < call.head_dim ? query[c] * scale : 0;
    }
    const auto score = [&](int64_t entry) {
      float dot = 0;
#pragma unroll
      for (int i = 0; i < kMaxLaneDims; ++i) {
        const int c = lane + 32 * i;
        if (c < call.head_dim) dot += q[i] * __half2float(keys[entry * 2 * call.head_dim + c]);
      }
      for (int step = 16; step > 0; step /= 2) dot += __shfl_xor_sync(kFullWarp, dot, step);
      return cap.limit > 0 ? cap.Apply(dot) : dot;
    };
    Mass of_all;
    for (int j = warp; j < context; j += kWarps) {
      const int64_t block = table[j / call.block_tokens];
      of_all.Add(score((block * call.kv_heads + probe.kv_head) * call.block_tokens +
                       j % call.block_tokens));
    }
    Mass of_chosen;
    for (int j = warp; j < budget; j += kWarps) of_chosen.Add(score(selected[j]));
    if (lane == 0) {
      all[warp] = of_all;
      chosen[warp] = of_chosen;
    }
    __syncthreads();
    Mass total;
    Mass kept;
    for (int w = 0; w < kWarps; ++w) {
      total.Add(all[w]);
      kept.Add(chosen[w]);
    }
    recall += kept.sum * Exp2(kept.largest - total.largest) / total.sum;
    if (has_tail) {
      const float tail = call.tails[(int64_t{head} * call.group + h) * (1 + call.head_dim)];
      Mass merged = kept;
      merged.Add(tail);
      estimated += Exp2(tail - merged.largest) / merged.sum;
    }
    __syncthreads();
  }
  if (threadIdx.x != 0) return;
  const auto group = static_cast<float>(call.group);
  probed[blockIdx.x] = {.recall = fminf(recall / group, 1), .estimated = estimated / group};
}

}  // namespace

cudaError_t LaunchMeasureRecall(const DecodeAttention& call, const DecodeProbe* probes, int count,
                                ProbedMass* probed, cudaStream_t stream) {
  MeasureRecall<<<count, kThreads, 0, stream>>>(call, CopyBudgetWeights(call),
                                                CopyTailWeights(call), probes, probed);
  return cudaGetLastError();
}

}  // namespace winnow::cuda
