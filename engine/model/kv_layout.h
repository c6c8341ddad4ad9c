#pragma once

#include <cstdint>
#include <vector>

#include "engine/model/config.h"
#include "kernels/kv_view.h"

namespace winnow {

/// How much of sequences a model's layers can keep.
struct KvOptions {
  int blocks = 0;         ///< of whole sequences: each of its groups of layers gets so many
  int block_tokens = 0;   ///< divides 256
  int label_width = 0;    ///< LabelFile::width if labels are kept beside all keys, else 0
  int summary_slots = 0;  ///< sequences whose tokens are summarised at a time, beside labels
};

/// A model's layers in groups that keep the same of a sequence and are of about one size: so blocks
/// of all groups can be of one pool (engine/cache/kv_store.h).
struct KvGroups {
  std::vector<int> windows;   ///< [groups] LayerConfig::sliding_window
  std::vector<int> of_layer;  ///< [layers]
  int layers = 0;             ///< of a group, at most: in those that have fewer some memory is idle

  /// Layers without a window, and those of each window, cut into groups of one size: the one that
  /// leaves least memory idle, of those that make at most kMost groups, or one of each kind.
  static KvGroups Of(const ModelConfig& config);
  static constexpr int kMost = 8;

  int count() const { return static_cast<int>(windows.size()); }
};

/// What each of the model's layers keeps, with labels and summaries only where rows may select: in
/// layers without a sliding window. The pool has `blocks` for each group.
std::vector<KvShape> KvLayout(const ModelConfig& config, const KvOptions& options);

/// Bytes of keys and values, fp16, that one token takes in the KV pool as long as it is within the
/// windows of all layers.
int64_t KvBytesPerToken(const ModelConfig& config);

}  // namespace winnow
