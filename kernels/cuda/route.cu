#include "kernels/cuda/decode_kernels.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/math.cuh"
#include "kernels/cuda/route.h"

// A warp chooses the experts of a row. One block then counts, for the whole step, the pairs of each
// expert and puts them in order; of a few rows it has chosen the experts, too.

namespace winnow::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;
constexpr int kLaneExperts = kMaxExperts / 32;
constexpr unsigned kFullWarp = 0xffffffff;
constexpr int kNone = INT32_MAX;

struct RouteCall {
  const float* logits;
  int64_t stride;
  bool normalizes;
  ExpertRoutes routes;
  bool chooses;
  bool groups;  // one block only
};

__device__ void ChooseExperts(const RouteCall& call, int64_t row) {
  const int lane = threadIdx.x % 32;
  const int experts = call.routes.experts;
  const int chosen = call.routes.chosen;
  const float* logits = call.logits + row * call.stride;
  float own[kLaneExperts];  // of the experts lane, lane + 32, ...
#pragma unroll
  for (int i = 0; i < kLaneExperts; ++i) {
    const int e = lane + 32 * i;
    own[i] = e < experts ? logits[e] : 0;
  }
  // What is no number is chosen last. Each choice is the largest of those that come after the one
  // before: lower logits, or equal ones of higher experts.
  float before = INFINITY;
  int id_before = -1;
  int id = kNone;  // the lane's, of the chosen ones
  for (int i = 0; i < chosen; ++i) {
    float best = -INFINITY;
    int best_id = kNone;
#pragma unroll
    for (int j = 0; j < kLaneExperts; ++j) {
      const int e = lane + 32 * j;
      const float logit = isnan(own[j]) ? -INFINITY : own[j];
      const bool left = e < experts && (logit < before || (logit == before && e > id_before));
      if (left && (logit > best || best_id == kNone)) {
        best = logit;
        best_id = e;
      }
    }
    for (int other = 16; other > 0; other /= 2) {
      const float their = __shfl_xor_sync(kFullWarp, best, other);
      const int their_id = __shfl_xor_sync(kFullWarp, best_id, other);
      if (their > best || (their == best && their_id < best_id)) {
        best = their;
        best_id = their_id;
      }
    }
    if (lane == i) id = best_id;
    before = best;
    id_before = best_id;
  }
  const float logit = lane < chosen ? logits[id] : 0;
  const float largest = __shfl_sync(kFullWarp, logit, 0);
  float weight = lane < chosen ? expf(logit - largest) : 0;
  float sum = weight;
  if (!call.normalizes) {
    sum = 0;
#pragma unroll
    for (int i = 0; i < kLaneExperts; ++i) {
      if (lane + 32 * i < experts) sum += expf(own[i] - largest);
    }
  }
  weight /= WarpSum(sum);
  if (lane < chosen) {
    call.routes.ids[row * chosen + lane] = id;
    call.routes.weights[row * chosen + lane] = weight;
  }
}

// Lists the groups, and writes to `next` where each begins, from what it holds: their counts.
__device__ void ListGroups(const ExpertRoutes& routes, int* next) {
  const int lane = threadIdx.x;
  const int first = lane * kLaneExperts;
  int pairs = 0;
  int groups = 0;
  for (int i = 0; i < kLaneExperts; ++i) {
    pairs += next[first + i];
    groups += next[first + i] > 0;
  }
  // Of all lanes up to this one.
  int pairs_after = pairs;
  int groups_after = groups;
  for (int other = 1; other < 32; other *= 2) {
    const int their_pairs = __shfl_up_sync(kFullWarp, pairs_after, other);
    const int their_groups = __shfl_up_sync(kFullWarp, groups_after, other);
    if (lane >= other) {
      pairs_after += their_pairs;
      groups_after += their_groups;
    }
  }
  int begin = pairs_after - pairs;
  int group = groups_after - groups;
  for (int i = 0; i < kLaneExperts; ++i) {
    const int count = next[first + i];
    if (count > 0) routes.groups[group++] = {first + i, begin, count};
    next[first + i] = begin;
    begin += count;
  }
  const int all = __shfl_sync(kFullWarp, groups_after, 31);
  for (int i = all + lane; i < routes.experts; i += 32) routes.groups[i] = {};
  if (lane == 0) *routes.expert_reads += all;
}

__device__ void GroupPairs(const ExpertRoutes& routes) {
  __shared__ int next[kMaxExperts];
  const int pairs = static_cast<int>(routes.rows) * routes.chosen;
  if (threadIdx.x < kMaxExperts) next[threadIdx.x] = 0;
  __syncthreads();
  for (int pair = threadIdx.x; pair < pairs; pair += kThreads) {
    atomicAdd(&next[routes.ids[pair]], 1);
  }
  __syncthreads();
  if (threadIdx.x < 32) ListGroups(routes, next);
  __syncthreads();
  // In any order: a pair's result does not depend on where it stands.
  for (int pair = threadIdx.x; pair < pairs; pair += kThreads) {
    routes.pairs[atomicAdd(&next[routes.ids[pair]], 1)] = pair;
  }
}

__global__ void __launch_bounds__(kThreads) Route(const __grid_constant__ RouteCall call) {
  LetNextKernelStart();
  WaitForPreviousKernel();
  if (call.chooses) {
    const int64_t step = int64_t{gridDim.x} * kWarps;
    for (int64_t row = blockIdx.x * kWarps + threadIdx.x / 32; row < call.routes.rows;
         row += step) {
      ChooseExperts(call, row);
    }
  }
  if (call.groups) {
    __syncthreads();
    GroupPairs(call.routes);
  }
}

constexpr int kAddThreads = 256;

struct AddCall {
  const float* x;
  int64_t x_stride;
  const float* weights;
  int chosen;
  int columns;
  float* sum;
  int64_t sum_stride;
  int pieces;  // of a row, each a block
};

// Four columns a thread.
__global__ void __launch_bounds__(kAddThreads) AddExperts(const __grid_constant__ AddCall call) {
  LetNextKernelStart();
  WaitForPreviousKernel();
  const int64_t row = blockIdx.x / call.pieces;
  const int c = 4 * (blockIdx.x % call.pieces * kAddThreads + threadIdx.x);
  if (c >= call.columns) return;
  auto* to = reinterpret_cast<float4*>(call.sum + row * call.sum_stride + c);
  float4 sum = *to;
  for (int64_t pair = row * call.chosen; pair < (row + 1) * call.chosen; ++pair) {
    const float weight = call.weights[pair];
    const float4 x = *reinterpret_cast<const float4*>(call.x + pair * call.x_stride + c);
    sum = {sum.x + weight * x.x, sum.y + weight * x.y, sum.z + weight * x.z, sum.w + weight * x.w};
  }
  *to = sum;
}

}  // namespace

cudaError_t LaunchRoute(const Tensor& logits, bool normalizes, const ExpertRoutes& routes,
                        cudaStream_t stream) {
  const int capability = CurrentDeviceTraits().capability_major;
  RouteCall call{.logits = static_cast<const float*>(logits.data),
                 .stride = logits.stride,
                 .normalizes = normalizes,
                 .routes = routes,
                 .chooses = true,
                 .groups = true};
  if (routes.rows > kWarps) {
    call.groups = false;
    const int blocks = static_cast<int>((routes.rows + kWarps - 1) / kWarps);
    const cudaError_t error =
        LaunchEarly(Route, {.blocks = blocks, .threads = kThreads}, capability, stream, call);
    if (error != cudaSuccess) return error;
    call.chooses = false;
    call.groups = true;
  }
  return LaunchEarly(Route, {.blocks = 1, .threads = kThreads}, capability, stream, call);
}

cudaError_t LaunchAddExperts(const Tensor& x, const ExpertRoutes& routes, const Tensor& sum,
                             cudaStream_t stream) {
  constexpr int kPiece = 4 * kAddThreads;
  const AddCall call{.x = static_cast<const float*>(x.data),
                     .x_stride = x.stride,
                     .weights = routes.weights,
                     .chosen = routes.chosen,
                     .columns = static_cast<int>(sum.columns),
                     .sum = static_cast<float*>(sum.data),
                     .sum_stride = sum.stride,
                     .pieces = static_cast<int>((sum.columns + kPiece - 1) / kPiece)};
  return LaunchEarly(AddExperts,
                     {.blocks = static_cast<int>(sum.rows) * call.pieces, .threads = kAddThreads},
                     CurrentDeviceTraits().capability_major, stream, call);
}

}  // namespace winnow::cuda
