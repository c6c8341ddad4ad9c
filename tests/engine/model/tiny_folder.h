#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/float16.h"
#include "tests/engine/model/temporary_folder.h"

namespace winnow {

/// A tensor as safetensors files have it.
struct FolderTensor {
  std::string type;
  std::vector<int64_t> shape;
  std::string bytes;

  /// Numbers, rounded to the type: "F32", "F16" or "BF16" (towards zero).
  static FolderTensor Of(const std::string& type, const std::vector<int64_t>& shape,
                         const std::vector<float>& values) {
    FolderTensor tensor{type, shape, {}};
    for (const float value : values) {
      uint32_t bits = 0;
      std::memcpy(&bits, &value, sizeof(bits));
      const uint16_t half = type == "F16" ? FloatToHalf(value) : static_cast<uint16_t>(bits >> 16);
      const char* data = type == "F32" ? reinterpret_cast<const char*>(&value)
                                       : reinterpret_cast<const char*>(&half);
      tensor.bytes.append(data, type == "F32" ? 4 : 2);
    }
    return tensor;
  }
};

/// The bytes of a safetensors file. An implementation of the format of its own, apart from the
/// parser.
inline std::string WriteSafetensors(const std::map<std::string, FolderTensor>& tensors) {
  nlohmann::json header = {{"__metadata__", {{"format", "pt"}}}};
  std::string data;
  for (const auto& [name, tensor] : tensors) {
    const size_t begin = data.size();
    data += tensor.bytes;
    header[name] = {
        {"dtype", tensor.type}, {"shape", tensor.shape}, {"data_offsets", {begin, data.size()}}};
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const uint64_t size = text.size();
  return std::string(reinterpret_cast<const char*>(&size), sizeof(size)) + text + data;
}

/// A Hugging Face folder of two layers, as complete as a real one, whose parts a test changes or
/// erases before Write(). Width 32, 2 query heads and 1 KV head of 16, feed-forward width 64, 4
/// tokens, random weights: TinyModel's sizes.
struct TinyFolder {
  explicit TinyFolder(const std::string& model_type, const std::string& type = "F32") {
    config = {
        {"model_type", model_type},       {"hidden_size", 32},        {"intermediate_size", 64},
        {"num_hidden_layers", 2},         {"num_attention_heads", 2}, {"num_key_value_heads", 1},
        {"max_position_embeddings", 128}, {"rms_norm_eps", 1e-5},     {"rope_theta", 10000.0},
        {"tie_word_embeddings", true},    {"vocab_size", 4}};
    Add("model.embed_tokens.weight", type, {4, 32});
    for (const std::string layer : {"model.layers.0.", "model.layers.1."}) {
      Add(layer + "input_layernorm.weight", type, {32});
      Add(layer + "self_attn.q_proj.weight", type, {32, 32});
      Add(layer + "self_attn.k_proj.weight", type, {16, 32});
      Add(layer + "self_attn.v_proj.weight", type, {16, 32});
      Add(layer + "self_attn.o_proj.weight", type, {32, 32});
      Add(layer + "post_attention_layernorm.weight", type, {32});
      Add(layer + "mlp.gate_proj.weight", type, {64, 32});
      Add(layer + "mlp.up_proj.weight", type, {64, 32});
      Add(layer + "mlp.down_proj.weight", type, {32, 64});
      if (model_type != "qwen2") continue;
      Add(layer + "self_attn.q_proj.bias", type, {32});
      Add(layer + "self_attn.k_proj.bias", type, {16});
      Add(layer + "self_attn.v_proj.bias", type, {16});
    }
    Add("model.norm.weight", type, {32});
  }

  /// Random numbers; around 1 in norms.
  void Add(const std::string& name, const std::string& type, const std::vector<int64_t>& shape) {
    int64_t elements = 1;
    for (const int64_t size : shape) elements *= size;
    const float mean = name.ends_with("norm.weight") ? 1.0f : 0.0f;
    std::normal_distribution<float> normal(mean, 0.3f);
    std::vector<float> values;
    for (int64_t i = 0; i < elements; ++i) values.push_back(normal(random));
    tensors[name] = FolderTensor::Of(type, shape, values);
  }

  /// As one file, or as several with an index.
  void Write(const TemporaryFolder& folder, int shards = 1) const {
    folder.Write("config.json", config.dump(2));
    if (shards == 1) {
      folder.Write("model.safetensors", WriteSafetensors(tensors));
      return;
    }
    nlohmann::json index = {{"metadata", {{"total_size", 0}}}};
    std::map<std::string, std::map<std::string, FolderTensor>> files;
    int number = 0;
    for (const auto& [name, tensor] : tensors) {
      const std::string file = ShardName(number++ % shards, shards);
      files[file].emplace(name, tensor);
      index["weight_map"][name] = file;
    }
    for (const auto& [file, held] : files) folder.Write(file, WriteSafetensors(held));
    folder.Write("model.safetensors.index.json", index.dump(2));
  }

  static std::string ShardName(int shard, int shards) {
    return "model-0000" + std::to_string(shard + 1) + "-of-0000" + std::to_string(shards) +
           ".safetensors";
  }

  nlohmann::json config;
  std::map<std::string, FolderTensor> tensors;
  std::mt19937 random{9};
};

}  // namespace winnow
