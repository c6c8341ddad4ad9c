#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "engine/model/block.h"
#include "engine/model/device_floats.h"
#include "engine/model/layer_selection.h"
#include "engine/model/linear.h"
#include "engine/model/model_spec.h"
#include "engine/model/module_output.h"
#include "engine/model/rms_norm.h"
#include "engine/model/weight_loader.h"
#include "kernels/rope.h"

namespace winnow {

/// What attention in one layer is told beside its weights.
struct AttentionSettings {
  int layer = 0;  ///< whose keys, values and labels it reads and writes
  int heads = 0;  ///< query heads
  int kv_heads = 0;
  int head_dim = 0;
  float norm_epsilon = 0;
  Rope rope;
};

/// Attention over selected keys and values of the KV cache, heads of queries in groups that share
/// a KV head (Backend::Attention has the equation).
class AttentionMixer : public Mixer {
 public:
  /// The errors of WeightLoader. REQUIRES: settings.rope.frequencies outlives the result.
  static absl::StatusOr<std::unique_ptr<Mixer>> Load(const AttentionSpec& spec,
                                                     const AttentionSettings& settings,
                                                     LayerSelection selection,
                                                     const WeightLoader& loader);

  /// Also writes the rows' keys, values and labels, shows the layer to the observer and measures
  /// the recall of the layer's probes.
  void Run(const StepContext& context, Tensor x) const override;

  void AddTraffic(const Selection& selection, int context, KvTraffic* traffic) const override;
  void AddPromptTraffic(int begin, int end, KvTraffic* traffic) const override;

  WeightTotals totals() const override;

 private:
  AttentionMixer(const AttentionSettings& settings, LayerSelection selection);

  void MeasureRecall(const StepContext& context, const KvView& kv) const;
  int64_t token_bytes() const;

  const AttentionSettings settings_;
  const LayerSelection selection_;
  RmsNorm norm_;
  Linear qkv_;               ///< [(heads + 2 kv_heads) head_dim, hidden]
  DeviceFloats query_norm_;  ///< [head_dim] or none, as in key_norm_
  DeviceFloats key_norm_;
  ModuleOutput output_;  ///< [hidden, heads head_dim]
};

}  // namespace winnow
