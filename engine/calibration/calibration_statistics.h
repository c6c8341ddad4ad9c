#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/checkpoint.h"
#include "engine/model/transformer.h"
#include "kernels/backend.h"
#include "kernels/selection.h"

namespace winnow {

/// What calibration keeps of a text that it ran through a model: enough to make label files of any
/// basis and width without running the model again. All queries and keys are those after RoPE.
/// Layers with a sliding window do not select, and nothing of them is kept.
struct CalibrationStatistics {
  /// One KV head of one layer, with the query heads of its group.
  struct Head {
    std::vector<double> query_moment;     ///< [head_dim, head_dim] E[q q^T] over tokens and group
    std::vector<double> key_covariance;   ///< [head_dim, head_dim] Cov(k) over tokens
    std::vector<double> query_magnitude;  ///< [head_dim] mean |q_c| over tokens and group
    std::vector<double> key_magnitude;    ///< [head_dim] mean |k_c| over tokens
    std::vector<double>
        product_magnitude;       ///< [head_dim] mean |q_c k_c| over causal pairs, sampled
    std::vector<uint16_t> keys;  ///< [samples, head_dim] fp16, evenly spaced over the text
    /// [group head_dim, group head_dim] W^T W of the columns of the output projection that the
    /// group feeds: what an error in the heads' outputs adds up to in the residual stream.
    std::vector<float> output_gram;
  };

  /// Whole keys and values of one window and some of its queries, to try selections on.
  struct Window {
    struct Layer {
      double residual_energy = 0;    ///< mean |x|^2 of the layer's input, second half of the window
      std::vector<float> queries;    ///< [query_positions, heads, head_dim]
      std::vector<uint16_t> keys;    ///< [kv_heads, tokens, head_dim] fp16
      std::vector<uint16_t> values;  ///< [kv_heads, tokens, head_dim] fp16
    };
    int tokens = 0;
    std::vector<int> query_positions;  ///< ascending, in the second half of the window
    std::vector<Layer> layers;
  };

  std::string architecture;
  std::string model_name;
  std::string model_fingerprint;
  int layers = 0;
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  LayerAttention attention;  ///< how scores are scaled and capped
  int window_tokens = 0;     ///< of the longest window
  std::vector<Head> groups;  ///< [layers, kv_heads]
  std::vector<Window> windows;

  int group_heads() const { return heads / kv_heads; }
  const Head& head(int layer, int kv_head) const { return groups[layer * kv_heads + kv_head]; }
  /// Whether something of the layer has been kept.
  bool selects(int layer) const { return !head(layer, 0).keys.empty(); }
};

struct GatherOptions {
  /// Windows that are kept for trying selections, evenly spaced over all; 0 when budgets are not to
  /// be measured. One takes 4 layers kv_heads head_dim bytes a token.
  int measured_windows = 2;
  int queries_per_window = 64;  ///< of the measured windows
  int key_samples = 16384;      ///< most keys of a head that are kept for ranges
  int threads = 0;              ///< 0: one per core
};

/// Called now and then on the calling thread with how much is done, from 0 to 1.
using CalibrationProgress = std::function<void(double done)>;

/// Runs each window of tokens through the model, densely, as one step at positions from 0, and
/// gathers what calibration needs. `checkpoint` is what it was loaded from.
/// FAILED_PRECONDITION when all layers have sliding windows. REQUIRES: at least one window; the
/// transformer's KV pool and steps hold each window; nothing else observes its layers. Errors are
/// those of Transformer::Forward, and INVALID_ARGUMENT when the model computes numbers that are not
/// finite.
absl::StatusOr<CalibrationStatistics> GatherStatistics(
    Transformer& transformer, Backend& backend, const Checkpoint& checkpoint,
    std::span<const std::vector<int32_t>> windows, const GatherOptions& options,
    const CalibrationProgress& progress);

}  // namespace winnow
