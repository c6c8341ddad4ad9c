#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/model/layer_selection.h"
#include "kernels/backend.h"
#include "kernels/kv_view.h"
#include "kernels/selection.h"

namespace winnow {

/// What the rows of one sequence choose by labels in one layer, for whoever has their keys and
/// queries in host memory: Backend::Attention, which makes the same choice, keeps it to itself. Up
/// to rounding: what is chosen last may differ.
class LabelChoice {
 public:
  /// A sequence without tokens. REQUIRES: `selection` is of a layer with labels, of which `shape`
  /// tells the sizes, and outlives this object.
  LabelChoice(const LayerSelection& selection, const KvShape& shape, int heads, Backend& backend);

  /// Appends a token to the sequence. `keys` [kv_heads, head_dim], rotated.
  void AddToken(std::span<const float> keys);

  /// Positions beside sinks and window that a KV head of a row chooses, of the `context` up to its
  /// own token; 0 where it is dense.
  int CountChosen(const Selection& selection, int kv_head, int context) const;

  /// What a KV head of a row chooses by: mean over its query heads of the softmax of their scores,
  /// of the first `tokens` tokens. `queries` [heads, head_dim] of the row, rotated. The result is
  /// there until the next call. REQUIRES: so many tokens have been added.
  std::span<const float> Weigh(int kv_head, std::span<const float> queries, int tokens);

  /// The positions a row chooses from: all of its `context` beside sinks and window, which lie in
  /// front of and behind them.
  int first() const { return attention_.sinks; }
  int end(int context) const { return context - attention_.window; }

 private:
  /// Of one KV head.
  struct Head {
    std::vector<float> key;         ///< as in LabelCodec: [head_dim, width]
    std::vector<float> query;       ///< [head_dim, width]
    std::vector<float> offset;      ///< [width]
    std::vector<float> codes = {};  ///< [tokens, width]
  };

  void AddCodes(const float* key, Head& head) const;

  const LayerAttention& attention_;
  const int head_dim_;
  const int width_;
  const int group_;
  std::vector<Head> heads_;     ///< [kv_heads]
  std::vector<float> weights_;  ///< scratch: [tokens]
};

/// The positions from `first` on of which weights[position] are largest, lower ones first among
/// equals: of the result's first counts[i], for each i, those are the largest so many. They are in
/// no particular order beside that. REQUIRES: counts ascend to at most weights.size() - first.
std::vector<int32_t> LargestWeights(std::span<const float> weights, int first,
                                    std::span<const int> counts);

}  // namespace winnow
