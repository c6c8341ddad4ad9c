#include <algorithm>

#include "kernels/cuda/budgets.h"
#include "kernels/cuda/decode_kernels.h"
#include "kernels/cuda/launch.cuh"

namespace winnow::cuda {
namespace {

constexpr int kThreads = 128;

struct Call {
  LayerSelector selector;
  float weights[kMaxKvHeads];
  int kv_heads;
  const Selection* selections;
  const int32_t* contexts;
  int count;
  int32_t* budgets;
};

// Waits for the kernel before it only to end after it: what it reads and writes is its own.
__global__ void Budgets(const __grid_constant__ Call call) {
  const int i = blockIdx.x * kThreads + threadIdx.x;
  if (i < call.count) {
    LayerSelector selector = call.selector;
    selector.budget_weights = call.weights;
    const int row = i / call.kv_heads;
    call.budgets[i] =
        BudgetTokens(call.selections[row], selector, i % call.kv_heads, call.contexts[row]);
  }
  WaitForPreviousKernel();
}

}  // namespace

cudaError_t LaunchBudgets(const LayerSelector& selector, int kv_heads, const Selection* selections,
                          const int32_t* contexts, int rows, int32_t* budgets,
                          cudaStream_t stream) {
  Call call{selector, {}, kv_heads, selections, contexts, rows * kv_heads, budgets};
  if (selector.budget_weights != nullptr) {
    std::copy_n(selector.budget_weights, kv_heads, call.weights);
  } else {
    std::fill_n(call.weights, kv_heads, 1.0f);
  }
  return LaunchEarly(Budgets,
                     {.blocks = (call.count + kThreads - 1) / kThreads, .threads = kThreads},
                     CurrentDeviceTraits().capability_major, stream, call);
}

}  // namespace winnow::cuda
