#pragma once

#include <algorithm>

#include "kernels/cuda/decode_attention.h"

namespace winnow::cuda {

/// DecodeAttention::budget_weights as a kernel's argument.
struct BudgetWeights {
  float of_head[kMaxKvHeads];
};

inline BudgetWeights CopyBudgetWeights(const DecodeAttention& call) {
  BudgetWeights weights;
  if (call.budget_weights != nullptr) {
    std::copy_n(call.budget_weights, call.kv_heads, weights.of_head);
  } else {
    std::fill_n(weights.of_head, call.kv_heads, 1.0f);
  }
  return weights;
}

/// BudgetTokens of a KV head of a row: computed where it is needed, so that a captured graph
/// follows the contexts. A head that selects never gets more than its list holds, whatever the host
/// made of the same numbers.
__device__ inline int32_t BudgetOf(const DecodeAttention& call, const BudgetWeights& weights,
                                   int row, int kv_head) {
  const int32_t context = call.contexts[row];
  LayerAttention attention;
  attention.sliding_window = call.sliding_window;
  if (call.max_selected == 0) return SeenTokens(attention, context);
  attention.budget_weights = weights.of_head;
  attention.sinks = call.sinks;
  attention.window = call.window;
  attention.min_context = call.min_context;
  const int32_t budget = BudgetTokens(call.selections[row], attention, kv_head, context);
  return budget < context ? min(budget, call.max_selected) : context;
}

}  // namespace winnow::cuda
