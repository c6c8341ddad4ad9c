#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "kernels/summary.h"

namespace winnow {

/// Which of the past tokens a KV head of a row attends to.
enum class SelectionKind : uint8_t {
  kAll,     ///< dense attention
  kLabels,  ///< those of the best approximate scores, by their labels (Double Sparsity)
  kWindow,  ///< the first and the most recent ones (StreamingLLM, Xiao et al. 2023)
  kScores,  ///< those of the best exact scores: reads every key, to measure what labels lose
};

/// How one row attends.
struct Selection {
  SelectionKind kind = SelectionKind::kAll;
  float fraction = 1;         ///< of its context, that a KV head of weight 1 attends to
  int32_t budget_tokens = 0;  ///< if above 0: this many tokens instead of a fraction

  bool operator==(const Selection&) const = default;
};

/// Numbers of a label, at most.
inline constexpr int kMaxLabelWidth = 64;

/// How keys become labels, and queries their counterparts, in one layer. In device memory.
///   code[i] = clamp(round(sum_c key[c, i] k[c] + offset[i]), 0, 15)
///   score   = scale sum_i code[i] sum_c query[c, i] q[c], with the scale of LayerAttention
/// The ranges that calibration found are folded into the matrices: codes are in units of a step.
/// What the range's lower ends add to a score is the same for all tokens and left out.
struct LabelCodec {
  const float* key = nullptr;     ///< [kv_heads, head_dim, width]
  const float* query = nullptr;   ///< [kv_heads, head_dim, width]
  const float* offset = nullptr;  ///< [kv_heads, width]
};

/// How one layer attends: the same for all sequences.
struct LayerAttention {
  float scale = 0;  ///< of q . k; 0: 1 / sqrt(head_dim)
  /// Exact scores become soft_cap tanh(score / soft_cap) before the softmax; 0: they stay as they
  /// are. Scores of labels are not capped.
  float soft_cap = 0;
  /// A row sees so many positions, up to and including its own; 0: all. Layers with a window are
  /// dense within it, whatever a row selects.
  int32_t sliding_window = 0;
  LabelCodec basis = {};                  ///< unused where no labels are kept
  const float* budget_weights = nullptr;  ///< host, [kv_heads], for kLabels; null: all 1
  int32_t sinks = 4;                      ///< first tokens, always selected
  int32_t window = 16;                    ///< most recent tokens, always selected
  int32_t min_context = 0;                ///< shorter contexts stay dense
  /// Host, [kv_heads], from 0 to 1: how much what a row does not choose by labels counts, as its
  /// sequence's summary estimates it (Backend::Attention); null: it is left out, as with 0.
  const float* tail_weights = nullptr;
};

/// So much of a uniform budget, in tokens, every KV head gets whatever its weight; weights spread
/// what is beyond. They are found at long contexts, where a small share is still many tokens, and a
/// head that looks up single tokens needs so many of them at short contexts, too.
inline constexpr float kEvenBudget = 64;

/// The factor of q . k in a layer.
inline float ScoreScale(const LayerAttention& layer, int head_dim) {
  return layer.scale != 0 ? layer.scale : 1 / std::sqrt(static_cast<float>(head_dim));
}

/// Tokens that a row of the layer sees, of the `context` up to and including its own.
constexpr int32_t SeenTokens(const LayerAttention& layer, int32_t context) {
  return layer.sliding_window > 0 ? std::min(context, layer.sliding_window) : context;
}

/// Tokens that KV head `kv_head` of a row attends to, of the `context` up to and including its own:
/// all that it sees where the row is dense or the layer has a sliding window, else of u = fraction
/// context, or u = budget_tokens, ceil(e + weight (u - e)) with e = min(u, kEvenBudget), so that
/// heads of mean weight 1 have u on average; at least the sinks and the window. Weights are finite.
/// constexpr, so that devices can compute it, too; to the same number, for the host makes room for
/// what a device lists.
constexpr int32_t BudgetTokens(const Selection& selection, const LayerAttention& layer, int kv_head,
                               int32_t context) {
  if (layer.sliding_window > 0) return SeenTokens(layer, context);
  if (selection.kind == SelectionKind::kAll || context < layer.min_context) return context;
  const bool spread = selection.kind == SelectionKind::kLabels && layer.budget_weights != nullptr;
  const float weight = spread ? layer.budget_weights[kv_head] : 1.0f;
  // u is the product of these.
  const float share = selection.budget_tokens > 0 ? 1 : selection.fraction;
  const auto whole =
      static_cast<float>(selection.budget_tokens > 0 ? selection.budget_tokens : context);
  // A product with a sum is fused in as many words: where compilers may choose, they differ.
  const float beyond = std::fma(share, whole, -kEvenBudget);
  const float tokens = beyond > 0 ? std::fma(weight, beyond, kEvenBudget) : share * whole;
  // The limit comes before the cast, which a larger number would overflow.
  const float wanted = std::min(std::ceil(tokens), static_cast<float>(context));
  return std::min(context, std::max(static_cast<int32_t>(wanted), layer.sinks + layer.window));
}

/// How much what KV head `kv_head` of a row does not choose of the `context` counts: 0 where the
/// row does not choose by labels, where there is no summary yet, where scores have a soft cap,
/// which labels do not foresee, and where the uniform budget is below kEvenBudget: heads that look
/// single tokens up then lose more by a tail that is not exact than they gain (docs/accuracy.md).
constexpr float TailWeight(const Selection& selection, const LayerAttention& layer, int kv_head,
                           int32_t context) {
  if (layer.tail_weights == nullptr || selection.kind != SelectionKind::kLabels ||
      layer.soft_cap != 0 || !HasSummary(context - 1, layer.sinks)) {
    return 0;
  }
  const float uniform = selection.budget_tokens > 0
                            ? static_cast<float>(selection.budget_tokens)
                            : selection.fraction * static_cast<float>(context);
  return uniform < kEvenBudget ? 0 : layer.tail_weights[kv_head];
}

}  // namespace winnow
