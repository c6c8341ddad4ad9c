// A config.json of any bytes: what is accepted is a configuration that lists its tensors.

#include <cmath>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string_view>

#include "engine/base/check.h"
#include "engine/model/folder_config.h"
#include "engine/model/folder_quantization.h"
#include "engine/model/json_file.h"
#include "engine/model/model_spec.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace winnow;
  const auto json = ParseJsonObject("config.json", {reinterpret_cast<const char*>(data), size});
  if (!json.ok()) return 0;
  const auto quantization = ParseFolderQuantization("folder/config.json", *json);
  if (quantization.ok()) {
    WINNOW_CHECK(quantization->bits == 0 || quantization->bits == 4 || quantization->bits == 8);
    WINNOW_CHECK(quantization->group_size >= 0 && quantization->block_rows >= 0);
    WINNOW_CHECK((quantization->block_rows == 0) == (quantization->block_columns == 0));
  }
  const auto config = ParseFolderConfig("folder/config.json", *json, /*context=*/0);
  if (!config.ok()) return 0;
  WINNOW_CHECK(config->name == "folder");
  WINNOW_CHECK(config->heads % config->kv_heads == 0 && config->head_dim % 16 == 0);
  WINNOW_CHECK(config->layer.size() == static_cast<size_t>(config->layers));
  for (const LayerConfig& layer : config->layer) {
    WINNOW_CHECK(layer.sliding_window >= 0 && layer.sliding_window < config->max_context);
    WINNOW_CHECK(layer.rope >= 0 && static_cast<size_t>(layer.rope) < config->ropes.size());
  }
  for (const RopeConfig& rope : config->ropes) {
    WINNOW_CHECK(rope.dim > 0 && rope.dim <= config->head_dim);
    WINNOW_CHECK(rope.frequencies.size() * 2 == static_cast<size_t>(rope.dim));
    for (const double one : rope.frequencies) WINNOW_CHECK(one > 0 && std::isfinite(one));
    WINNOW_CHECK(rope.magnitude > 0 && std::isfinite(rope.magnitude));
  }
  for (const TensorSpec& tensor : ModelSpec::Of(*config).tensors) {
    for (const int64_t one : tensor.shape) WINNOW_CHECK(one > 0);
  }
  return 0;
}
