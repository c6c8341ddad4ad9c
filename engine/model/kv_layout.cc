#include "engine/model/kv_layout.h"

#include <cstddef>

namespace winnow {

std::vector<KvShape> KvLayout(const ModelConfig& config, const KvOptions& options) {
  return std::vector<KvShape>(static_cast<size_t>(config.layers),
                              {.blocks = options.blocks,
                               .kv_heads = config.kv_heads,
                               .block_tokens = options.block_tokens,
                               .head_dim = config.head_dim,
                               .label_width = options.label_width});
}

}  // namespace winnow
