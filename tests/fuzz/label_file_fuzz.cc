// What calibration writes, and the channel files of the reference project, of any bytes, for a
// model of two layers.

#include <cmath>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/base/check.h"
#include "engine/calibration/channel_import.h"
#include "engine/model/label_file.h"
#include "tests/engine/model/tiny_model.h"
#include "tests/fuzz/memory_file.h"

namespace winnow {
namespace {

struct Model {
  Model() {
    file.Set(TinyModel("llama").Write().Bytes());
    checkpoint = Checkpoint::Open(file.path()).value();
    config = checkpoint->config();
  }

  MemoryFile file;
  std::unique_ptr<Checkpoint> checkpoint;
  ModelConfig config;
};

void CheckFinite(const std::vector<float>& values, size_t size) {
  WINNOW_CHECK(values.size() == size);
  for (const float value : values) WINNOW_CHECK(std::isfinite(value));
}

void CheckLabels(const LabelFile& labels, const Model& model) {
  const auto heads = static_cast<size_t>(model.config.kv_heads);
  const auto width = static_cast<size_t>(labels.width);
  WINNOW_CHECK(width >= 1 && width % kLabelWidthMultiple == 0);
  WINNOW_CHECK(labels.width <= kMaxLabelWidth && labels.width <= model.config.head_dim);
  WINNOW_CHECK(labels.layers.size() == static_cast<size_t>(model.config.layers));
  CheckFinite(labels.budget_weights, labels.layers.size() * heads);
  if (!labels.tail_weights.empty()) {
    CheckFinite(labels.tail_weights, labels.layers.size() * heads);
    for (const float weight : labels.tail_weights) WINNOW_CHECK(weight >= 0 && weight <= 1);
  }
  for (const LabelFile::Layer& layer : labels.layers) {
    CheckFinite(layer.query, heads * model.config.head_dim * width);
    CheckFinite(layer.key, heads * model.config.head_dim * width);
    CheckFinite(layer.low, heads * width);
    CheckFinite(layer.high, heads * width);
    for (size_t i = 0; i < layer.low.size(); ++i) WINNOW_CHECK(layer.low[i] < layer.high[i]);
  }
}

/// What was read can be written, and then read as the same.
void CheckRoundTrip(const LabelFile& labels, const Model& model) {
  static MemoryFile memory;
  WINNOW_CHECK(labels.Write(memory.path()).ok());
  const auto again = LabelFile::Read(memory.path(), *model.checkpoint);
  // Ranges are rounded when they are written, and may meet.
  if (!again.ok()) return;
  WINNOW_CHECK(again->basis == labels.basis && again->width == labels.width);
  WINNOW_CHECK(again->tail_weights.size() == labels.tail_weights.size());
  for (size_t l = 0; l < labels.layers.size(); ++l) {
    WINNOW_CHECK(again->layers[l].key == labels.layers[l].key);
    WINNOW_CHECK(again->layers[l].query == labels.layers[l].query);
  }
}

void CheckChannels(const ChannelRanking& ranking, const ModelConfig& config) {
  WINNOW_CHECK(ranking.size() == static_cast<size_t>(config.layers) * config.kv_heads);
  for (const std::vector<int>& channels : ranking) {
    std::vector<bool> seen(config.head_dim);
    WINNOW_CHECK(channels.size() == seen.size());
    for (const int channel : channels) {
      WINNOW_CHECK(!seen.at(channel));
      seen[channel] = true;
    }
  }
}

}  // namespace
}  // namespace winnow

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace winnow;
  static const Model model;
  static MemoryFile memory;
  memory.Set(std::as_bytes(std::span(data, size)));
  if (const auto labels = LabelFile::Read(memory.path(), *model.checkpoint); labels.ok()) {
    CheckLabels(*labels, model);
    CheckRoundTrip(*labels, model);
  }
  if (const auto channels = ImportChannelRanking(memory.path(), model.config, "qk");
      channels.ok()) {
    CheckChannels(*channels, model.config);
  }
  return 0;
}
