#include <algorithm>

#include "kernels/cuda/budgets.h"

namespace winnow::cuda {
namespace {

constexpr int kThreads = 128;

struct Weights {
  float of_head[kMaxKvHeads];
};

__global__ void Budgets(LayerSelector selector, const __grid_constant__ Weights weights,
                        int kv_heads, const Selection* selections, const int32_t* contexts,
                        int count, int32_t* budgets) {
  const int i = blockIdx.x * kThreads + threadIdx.x;
  if (i >= count) return;
  selector.budget_weights = weights.of_head;
  const int row = i / kv_heads;
  budgets[i] = BudgetTokens(selections[row], selector, i % kv_heads, contexts[row]);
}

}  // namespace

cudaError_t LaunchBudgets(const LayerSelector& selector, int kv_heads, const Selection* selections,
                          const int32_t* contexts, int rows, int32_t* budgets,
                          cudaStream_t stream) {
  Weights weights;
  if (selector.budget_weights != nullptr) {
    std::copy_n(selector.budget_weights, kv_heads, weights.of_head);
  } else {
    std::fill_n(weights.of_head, kv_heads, 1.0f);
  }
  const int count = rows * kv_heads;
  Budgets<<<(count + kThreads - 1) / kThreads, kThreads, 0, stream>>>(
      selector, weights, kv_heads, selections, contexts, count, budgets);
  return cudaGetLastError();
}

}  // namespace winnow::cuda
