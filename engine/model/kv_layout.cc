#include "engine/model/kv_layout.h"

namespace winnow {

std::vector<KvShape> KvLayout(const ModelConfig& config, const KvOptions& options) {
  std::vector<KvShape> layers;
  for (const LayerConfig& layer : config.layer) {
    layers.push_back({.blocks = options.blocks,
                      .kv_heads = config.kv_heads,
                      .block_tokens = options.block_tokens,
                      .head_dim = config.head_dim,
                      .label_width = layer.sliding_window > 0 ? 0 : options.label_width});
  }
  return layers;
}

}  // namespace winnow
