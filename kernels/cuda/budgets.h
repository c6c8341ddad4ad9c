#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/selection.h"

namespace winnow::cuda {

/// KV heads of a model, at most.
inline constexpr int kMaxKvHeads = 128;

/// Queues budgets[t, g] = BudgetTokens(selections[t], selector, g, contexts[t]) for `rows` rows:
/// on the device, so that a recorded step computes those of its next contexts.
/// `selector.budget_weights` is in host memory, copied by the call; the other pointers are to
/// device memory. REQUIRES: kv_heads <= kMaxKvHeads. Returns the launch's error.
cudaError_t LaunchBudgets(const LayerSelector& selector, int kv_heads, const Selection* selections,
                          const int32_t* contexts, int rows, int32_t* budgets, cudaStream_t stream);

}  // namespace winnow::cuda
