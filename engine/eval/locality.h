#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/attention/policy.h"
#include "engine/eval/row_reuse.h"
#include "engine/eval/sequence_runner.h"
#include "engine/model/label_file.h"
#include "engine/model/transformer.h"
#include "engine/model/weight_source.h"
#include "kernels/backend.h"

namespace winnow {

/// Rows of an LRU cache of a KV head, as multiples of what it selects at most.
inline constexpr std::array<double, 4> kCacheSizes = {1, 1.5, 2, 4};
/// Likewise of the best possible cache.
inline constexpr double kBestCacheSize = 2;
/// Rows that are prefetched, as multiples of what the step selects.
inline constexpr std::array<double, 3> kPrefetchSizes = {1, 1.25, 1.5};

/// What is measured.
struct LocalityOptions {
  int context = 8192;  ///< tokens of the text that are computed
  /// Last of them, which are decoded and counted.
  int steps = 320;
  /// Tokens in front of those, decoded too: they fill caches. What comes before is computed
  /// densely.
  int warm_up = 64;
  Selection selection = {};  ///< of rows that are decoded: by labels
  int block_tokens = 0;      ///< of the model's KV pool, which holds at least `context` tokens
  int step_rows = 256;       ///< rows of a step; changes memory and speed, not the result
};

/// A model, and what it was loaded from.
struct LocalityModel {
  Transformer& transformer;
  Backend& backend;
  const WeightSource& weights;
  const LabelFile& labels;
  SelectionOptions selection = {};
};

/// Counts of rows that are selected in the counted steps beside sinks and window: in one KV head,
/// or in several together.
struct LocalityCounts {
  int64_t heads = 0;    ///< that select
  int64_t rows = 0;     ///< selected
  int64_t overlap = 0;  ///< of them, that the step before selected
  std::array<int64_t, kCacheSizes.size()> lru_hits = {};
  int64_t best_hits = 0;  ///< of the best possible cache
  RowAges ages = {};
  /// Of the heads of layers that can be predicted: all but the first.
  int64_t predictable_rows = 0;
  /// Of these, that prefetching has by the queries of the layer's own matrix,
  std::array<int64_t, kPrefetchSizes.size()> own_hits = {};
  /// and by those of a fitted map.
  std::array<int64_t, kPrefetchSizes.size()> fitted_hits = {};

  LocalityCounts& operator+=(const LocalityCounts& other);
};

struct LocalityResult {
  std::vector<LocalityCounts> heads;  ///< [layers, kv_heads]
  int kv_heads = 0;

  int layers() const { return static_cast<int>(heads.size()) / kv_heads; }
  const LocalityCounts& head(int layer, int kv_head) const {
    return heads[static_cast<size_t>(layer * kv_heads + kv_head)];
  }
  LocalityCounts Layer(int layer) const;
  LocalityCounts Total() const;
};

/// Follows what every KV head selects while a text is decoded: how many of a step's rows the step
/// before had, how many a cache of rows would have, and how many could be foreseen a layer ahead.
/// Each cache is of one KV head, and is asked for all rows of a step at once (row_cache.h).
///
/// Predictions for layer l are queries that are made of the input of layer l - 1
/// (query_predictor.h), by a map that is fitted to the dense rows, too. They are projected by layer
/// l's label basis and scored on layer l's labels of all tokens but the row's own, which is not
/// known yet. Positions rank as selection ranks them: mean over the group's heads of the softmaxes.
///
/// REQUIRES: `text` holds options.context tokens, more than steps and warm-up, which are at least 1
/// both; the model's labels are those of `labels`. RESOURCE_EXHAUSTED when memory is short; other
/// errors mean that the device failed.
absl::StatusOr<LocalityResult> EvalLocality(const LocalityModel& model,
                                            std::span<const int32_t> text,
                                            const LocalityOptions& options,
                                            const RowsObserver& observer = {});

}  // namespace winnow
