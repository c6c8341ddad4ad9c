#pragma once

#include <cuda_fp16.h>

#include <algorithm>

#include "kernels/cuda/decode_attention.h"
#include "kernels/cuda/renew_summaries.h"

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

/// DecodeAttention::tail_weights, likewise; all 0 without.
struct TailWeights {
  float of_head[kMaxKvHeads];
};

inline TailWeights CopyTailWeights(const DecodeAttention& call) {
  TailWeights weights = {};
  if (call.tail_weights != nullptr) {
    std::copy_n(call.tail_weights, call.kv_heads, weights.of_head);
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

/// TailWeight of a KV head of a row; 0, too, where its sequence has no summary and where all is
/// chosen.
__device__ inline float TailOf(const DecodeAttention& call, const BudgetWeights& budgets,
                               const TailWeights& tails, int row, int kv_head) {
  if (call.tail_weights == nullptr || call.estimates[row] == kNoEstimate) return 0;
  const int32_t context = call.contexts[row];
  if (BudgetOf(call, budgets, row, kv_head) >= context) return 0;
  LayerAttention attention;
  attention.soft_cap = call.soft_cap;
  attention.sinks = call.sinks;
  attention.tail_weights = tails.of_head;
  return TailWeight(call.selections[row], attention, kv_head, context);
}

/// Means and slopes in fp16 (SummaryShape) that a KV head of a row estimates by, where TailOf is
/// above 0.
__device__ inline const __half* EstimateOf(const DecodeAttention& call, int row, int kv_head) {
  const SummaryShape shape = {call.label_width, call.head_dim};
  const int32_t estimate = call.estimates[row];
  if (estimate >= 0) {
    return reinterpret_cast<const __half*>(
        call.summaries + (int64_t{estimate} * call.kv_heads + kv_head) * shape.floats() +
        shape.sums());
  }
  const int64_t index = LongerEstimate(estimate);  // which is its own inverse
  return reinterpret_cast<const __half*>(call.longer) +
         (index * call.kv_heads + kv_head) * shape.estimate_halves();
}

}  // namespace winnow::cuda
