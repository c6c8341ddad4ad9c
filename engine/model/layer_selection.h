#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "engine/attention/policy.h"
#include "engine/model/config.h"
#include "engine/model/device_floats.h"
#include "engine/model/label_file.h"
#include "kernels/backend.h"
#include "kernels/selection.h"

namespace winnow {

/// How one layer attends: as the model's configuration says, and selects by which options, by which
/// label basis, and with which budgets of its KV heads.
class LayerSelection {
 public:
  /// Without labels: with sinks and window only, and uniform budgets.
  LayerSelection(const SelectionOptions& options, const ModelConfig& config, int layer);

  /// With the labels of `file`, which is not needed afterwards. REQUIRES: the layer has no sliding
  /// window; `backend` outlives the result. The errors of Backend::Allocate.
  static absl::StatusOr<LayerSelection> WithLabels(const SelectionOptions& options,
                                                   const ModelConfig& config, int layer,
                                                   const LabelFile& file, Backend& backend);

  /// What operators are given. Its pointers stay valid when this object is moved.
  const LayerAttention& attention() const { return attention_; }

  /// Numbers of a label; 0 without labels.
  int label_width() const { return label_width_; }

 private:
  LayerAttention attention_;
  int label_width_ = 0;
  DeviceFloats basis_;                 ///< of LabelCodec: key, query, offset
  std::vector<float> budget_weights_;  ///< [kv_heads]; empty: all 1
  std::vector<float> tail_weights_;    ///< [kv_heads]; empty: what is not chosen is left out
};

}  // namespace winnow
