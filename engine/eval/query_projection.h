#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/activations.h"
#include "engine/model/config.h"
#include "engine/model/device_floats.h"
#include "engine/model/linear.h"
#include "engine/model/model_spec.h"
#include "engine/model/rms_norm.h"
#include "engine/model/weight_loader.h"
#include "kernels/backend.h"
#include "kernels/kv_view.h"
#include "kernels/tensor.h"

namespace winnow {

/// What one layer makes its queries of, once more beside the model, so that the layer can be asked
/// for queries of residual streams that it never gets.
class QueryProjection {
 public:
  /// `spec` are the layer's tensors. The errors of WeightLoader.
  static absl::StatusOr<QueryProjection> Load(const AttentionSpec& spec, const ModelConfig& config,
                                              const WeightLoader& loader);

  /// The queries, [rows, heads head_dim], that the layer has before RoPE where `residual` [rows,
  /// hidden] is its input: of the rows' norms by the layer's norm weights, with its biases and its
  /// norm of query heads if it has them. `scratch` are overwritten. REQUIRES: scratch has as many
  /// rows.
  std::vector<float> Run(Backend& backend, const Tensor& residual,
                         const Activations& scratch) const;

 private:
  explicit QueryProjection(const ModelConfig& config)
      : heads_(config.heads),
        kv_{.kv_heads = config.kv_heads, .head_dim = config.head_dim},
        epsilon_(config.norm_epsilon) {}

  int heads_;
  KvShape kv_;  ///< of which only the heads' sizes are known
  float epsilon_;
  RmsNorm norm_;
  Linear qkv_;
  DeviceFloats query_norm_;  ///< none where heads are not normed, as in key_norm_
  DeviceFloats key_norm_;
};

}  // namespace winnow
