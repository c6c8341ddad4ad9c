#include "engine/model/layer_selection.h"

#include <cstddef>
#include <cstdint>
#include <limits>
#include <utility>

namespace winnow {
namespace {

/// The numbers of LabelCodec: key, query and offset. The ranges are folded into the matrices, so
/// that a label comes out in steps of its range.
std::vector<float> FoldRanges(const LabelFile& file, const LabelFile::Layer& layer) {
  const auto step = [&](size_t i) { return (layer.high[i] - layer.low[i]) / 15; };
  const auto width = static_cast<size_t>(file.width);
  const size_t head = static_cast<size_t>(file.head_dim) * width;
  const auto step_of = [&](size_t element) {  // of an element of a matrix
    return step(element / head * width + element % width);
  };
  std::vector<float> values;
  for (size_t i = 0; i < layer.key.size(); ++i) values.push_back(layer.key[i] / step_of(i));
  for (size_t i = 0; i < layer.query.size(); ++i) values.push_back(layer.query[i] * step_of(i));
  for (size_t i = 0; i < layer.low.size(); ++i) values.push_back(-layer.low[i] / step(i));
  return values;
}

}  // namespace

LayerSelection::LayerSelection(const SelectionOptions& options, const ModelConfig& config,
                               int layer) {
  attention_.scale = config.attention_scale;
  attention_.soft_cap = config.attention_soft_cap;
  attention_.sliding_window = config.layer[static_cast<size_t>(layer)].sliding_window;
  attention_.sinks = options.sinks;
  attention_.window = options.window;
  attention_.min_context =
      layer < options.dense_layers ? std::numeric_limits<int32_t>::max() : options.min_context;
}

absl::StatusOr<LayerSelection> LayerSelection::WithLabels(const SelectionOptions& options,
                                                          const ModelConfig& config, int layer,
                                                          const LabelFile& file, Backend& backend) {
  LayerSelection selection(options, config, layer);
  const LabelFile::Layer& labels = file.layers[static_cast<size_t>(layer)];
  absl::StatusOr<DeviceFloats> basis = DeviceFloats::Upload(FoldRanges(file, labels), backend);
  if (!basis.ok()) return basis.status();
  selection.basis_ = *std::move(basis);
  selection.label_width_ = file.width;
  const float* key = selection.basis_.data();
  const float* query = key + labels.key.size();
  selection.attention_.basis = {key, query, query + labels.query.size()};
  if (!options.uniform_budgets) {
    const auto first = file.budget_weights.begin() + int64_t{layer} * file.kv_heads;
    selection.budget_weights_.assign(first, first + file.kv_heads);
    selection.attention_.budget_weights = selection.budget_weights_.data();
  }
  if (options.tail && !file.tail_weights.empty()) {
    const auto first = file.tail_weights.begin() + int64_t{layer} * file.kv_heads;
    selection.tail_weights_.assign(first, first + file.kv_heads);
    selection.attention_.tail_weights = selection.tail_weights_.data();
  }
  return selection;
}

}  // namespace winnow
