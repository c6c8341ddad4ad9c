#include "engine/bench/synthetic_model.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <span>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/bench/bench_support.h"
#include "engine/model/model_spec.h"

namespace winnow {
namespace {

constexpr std::string_view kPrefix = "synthetic:";

struct Shape {
  std::string_view name;
  int layers, hidden, ffn, heads, kv_heads, vocab, max_context;
  double rope_base;
  int sliding_window = 0;  ///< of all layers; 0: none
  int experts = 0;
  int chosen_experts = 0;
};

// As published in the models' configurations.
constexpr Shape kShapes[] = {
    {"llama-2-7b", 32, 4096, 11008, 32, 32, 32000, 4096, 1e4},
    {"llama-2-70b", 80, 8192, 28672, 64, 8, 32000, 4096, 1e4},
    {"llama-3-8b", 32, 4096, 14336, 32, 8, 128256, 8192, 5e5},
    {"mistral-7b", 32, 4096, 14336, 32, 8, 32000, 32768, 1e4, 4096},
    {"mixtral-8x7b", 32, 4096, 14336, 32, 8, 32000, 32768, 1e6, 0, 8, 2},
};

ModelConfig ConfigOf(const Shape& shape, int layers) {
  ModelConfig config;
  config.architecture = "llama";
  config.name = absl::StrCat(std::string(kPrefix), std::string(shape.name));
  config.layers = layers > 0 ? std::min(layers, shape.layers) : shape.layers;
  config.hidden = shape.hidden;
  config.ffn = shape.ffn;
  config.heads = shape.heads;
  config.kv_heads = shape.kv_heads;
  config.head_dim = shape.hidden / shape.heads;
  config.vocab = shape.vocab;
  config.max_context = shape.max_context;
  config.norm_epsilon = 1e-5f;
  if (shape.experts > 0) config.mixture = {shape.experts, shape.chosen_experts, shape.ffn};
  config.layer.resize(static_cast<size_t>(config.layers));
  for (LayerConfig& layer : config.layer) layer.sliding_window = shape.sliding_window;
  RopeConfig& rope = config.ropes.emplace_back();
  rope.dim = config.head_dim;
  for (int i = 0; i < rope.dim / 2; ++i) {
    rope.frequencies.push_back(std::pow(shape.rope_base, -2.0 * i / rope.dim));
  }
  return config;
}

int64_t Elements(const std::vector<int64_t>& shape) {
  int64_t elements = 1;
  for (const int64_t size : shape) elements *= size;
  return elements;
}

}  // namespace

std::vector<std::string> SyntheticModel::Names() {
  std::vector<std::string> names;
  for (const Shape& shape : kShapes) {
    names.push_back(absl::StrCat(std::string(kPrefix), std::string(shape.name)));
  }
  return names;
}

bool SyntheticModel::IsName(std::string_view model) { return model.starts_with(kPrefix); }

absl::StatusOr<std::unique_ptr<SyntheticModel>> SyntheticModel::Make(std::string_view name,
                                                                     int layers) {
  for (const Shape& shape : kShapes) {
    if (IsName(name) && name.substr(kPrefix.size()) == shape.name) {
      return std::unique_ptr<SyntheticModel>(new SyntheticModel(ConfigOf(shape, layers)));
    }
  }
  return absl::InvalidArgumentError(absl::StrCat("there is no model ", std::string(name),
                                                 "; there are ", absl::StrJoin(Names(), ", ")));
}

SyntheticModel::SyntheticModel(const ModelConfig& config) : config_(config) {
  int64_t largest = 0;
  int64_t longest = 0;
  for (TensorSpec& tensor : ModelSpec::Of(config).tensors) {
    int64_t& most = tensor.shape.size() > 1 ? largest : longest;
    most = std::max(most, Elements(tensor.shape));
    shapes_.emplace(std::move(tensor.name), std::move(tensor.shape));
  }
  // With this deviation activations stay in range from layer to layer.
  numbers_ = RandomBf16(largest, 1 / std::sqrt(static_cast<float>(config.hidden)));
  ones_.assign(longest, 1.0f);
}

HostWeight SyntheticModel::Weight(std::string_view name) const {
  const std::vector<int64_t>& shape = shapes_.find(name)->second;
  if (shape.size() == 1) {
    return HostMatrix{DataType::kF32, 1, shape[0], std::as_bytes(std::span(ones_).first(shape[0]))};
  }
  const int64_t elements = Elements(shape);
  return HostMatrix{DataType::kBF16, elements / shape.back(), shape.back(),
                    std::as_bytes(std::span(numbers_).first(elements))};
}

}  // namespace winnow
