#include "engine/model/kv_layout.h"

#include <algorithm>
#include <cstddef>
#include <limits>
#include <map>

namespace winnow {
namespace {

/// Layers of a group, so that those of each kind (`kinds`: how many there are) make groups of which
/// the last has as few missing as may be.
int LayersOfGroup(const std::map<int, int>& kinds) {
  int largest = 0;
  for (const auto& [window, layers] : kinds) largest = std::max(largest, layers);
  int best = largest;
  int least = std::numeric_limits<int>::max();
  for (int size = largest; size >= 1; --size) {
    int groups = 0;
    for (const auto& [window, layers] : kinds) groups += (layers + size - 1) / size;
    const int most = std::max(KvGroups::kMost, static_cast<int>(kinds.size()));
    if (groups > most || groups * size >= least) continue;
    best = size;
    least = groups * size;
  }
  return best;
}

}  // namespace

KvGroups KvGroups::Of(const ModelConfig& config) {
  std::map<int, int> kinds;  // layers of each window
  for (const LayerConfig& layer : config.layer) ++kinds[layer.sliding_window];
  KvGroups groups = {.windows = {}, .of_layer = {}, .layers = LayersOfGroup(kinds)};
  struct Open {
    int group = 0;
    int layers = 0;
  };
  std::map<int, Open> open;  // the group of each window that takes the next layer
  for (const LayerConfig& layer : config.layer) {
    Open& last = open[layer.sliding_window];
    if (last.layers % groups.layers == 0) {
      last.group = groups.count();
      groups.windows.push_back(layer.sliding_window);
    }
    ++last.layers;
    groups.of_layer.push_back(last.group);
  }
  return groups;
}

std::vector<KvShape> KvLayout(const ModelConfig& config, const KvOptions& options) {
  const KvGroups groups = KvGroups::Of(config);
  std::vector<KvShape> layers;
  for (size_t layer = 0; layer < config.layer.size(); ++layer) {
    const bool selects = config.layer[layer].sliding_window == 0 && options.label_width > 0;
    layers.push_back({.blocks = options.blocks * groups.count(),
                      .kv_heads = config.kv_heads,
                      .block_tokens = options.block_tokens,
                      .head_dim = config.head_dim,
                      .label_width = selects ? options.label_width : 0,
                      .summary_slots = selects ? options.summary_slots : 0,
                      .group = groups.of_layer[layer]});
  }
  return layers;
}

int64_t KvBytesPerToken(const ModelConfig& config) {
  const KvGroups groups = KvGroups::Of(config);
  return int64_t{2} * groups.count() * groups.layers * config.kv_heads * config.head_dim *
         static_cast<int64_t>(sizeof(uint16_t));
}

}  // namespace winnow
