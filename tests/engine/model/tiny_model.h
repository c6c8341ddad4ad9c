#pragma once

#include <map>
#include <string>
#include <vector>

#include "tests/engine/model/gguf_writer.h"

namespace winnow {

/// A model of two layers, as complete as a real one, whose parts a test changes or erases before
/// Write(). Width 32, 2 query heads and 1 KV head of 16, feed-forward width 64, 4 tokens.
struct TinyModel {
  explicit TinyModel(const std::string& architecture) {
    strings["general.architecture"] = architecture;
    strings["general.name"] = "Tiny";
    const auto key = [&](const char* name) { return architecture + "." + name; };
    ints[key("block_count")] = 2;
    ints[key("embedding_length")] = 32;
    ints[key("feed_forward_length")] = 64;
    ints[key("attention.head_count")] = 2;
    ints[key("attention.head_count_kv")] = 1;
    ints[key("context_length")] = 128;
    floats[key("attention.layer_norm_rms_epsilon")] = 1e-5f;
    shapes["token_embd.weight"] = {4, 32};
    for (const std::string layer : {"blk.0.", "blk.1."}) {
      shapes[layer + "attn_norm.weight"] = {32};
      shapes[layer + "attn_q.weight"] = {32, 32};
      shapes[layer + "attn_k.weight"] = {16, 32};
      shapes[layer + "attn_v.weight"] = {16, 32};
      shapes[layer + "attn_output.weight"] = {32, 32};
      shapes[layer + "ffn_norm.weight"] = {32};
      shapes[layer + "ffn_gate.weight"] = {64, 32};
      shapes[layer + "ffn_up.weight"] = {64, 32};
      shapes[layer + "ffn_down.weight"] = {32, 64};
    }
    shapes["output_norm.weight"] = {32};
  }

  /// The shapes of a family, with all that its files hold.
  static TinyModel Of(const std::string& architecture) {
    TinyModel model(architecture);
    if (architecture == "qwen2") model.AddQkvBiases();
    if (architecture.starts_with("qwen3") || architecture == "gemma3") model.AddHeadNorms();
    if (architecture == "qwen3moe") model.AddExperts(5, 2);
    if (architecture == "phi3") model.FuseTensors();
    if (architecture == "gemma2" || architecture == "gemma3") model.AddPostNorms();
    return model;
  }

  void AddHeadNorms() {
    for (const std::string layer : {"blk.0.", "blk.1."}) {
      shapes[layer + "attn_q_norm.weight"] = {16};
      shapes[layer + "attn_k_norm.weight"] = {16};
    }
  }

  void AddPostNorms() {
    for (const std::string layer : {"blk.0.", "blk.1."}) {
      shapes[layer + "post_attention_norm.weight"] = {32};
      shapes[layer + "post_ffw_norm.weight"] = {32};
    }
  }

  void FuseTensors() {
    for (const std::string layer : {"blk.0.", "blk.1."}) {
      for (const char* part : {"attn_q", "attn_k", "attn_v", "ffn_gate"}) {
        shapes.erase(layer + part + ".weight");
      }
      shapes[layer + "attn_qkv.weight"] = {32 + 2 * 16, 32};
      shapes[layer + "ffn_up.weight"] = {2 * 64, 32};
    }
  }

  void AddQkvBiases() {
    for (const std::string layer : {"blk.0.", "blk.1."}) {
      shapes[layer + "attn_q.bias"] = {32};
      shapes[layer + "attn_k.bias"] = {16};
      shapes[layer + "attn_v.bias"] = {16};
    }
  }

  /// Replaces the feed-forward networks by `experts` experts of width 64.
  void AddExperts(uint32_t experts, uint32_t chosen) {
    ints[strings["general.architecture"] + ".expert_count"] = experts;
    ints[strings["general.architecture"] + ".expert_used_count"] = chosen;
    for (const std::string layer : {"blk.0.", "blk.1."}) {
      for (const char* part : {"ffn_gate", "ffn_up", "ffn_down"}) {
        std::vector<uint64_t> shape = shapes[layer + part + ".weight"];
        shape.insert(shape.begin(), experts);
        shapes[layer + part + "_exps.weight"] = shape;
        shapes.erase(layer + part + ".weight");
      }
      shapes[layer + "ffn_gate_inp.weight"] = {experts, 32};
    }
  }

  /// The file; all tensors F32, of zeros unless `values` has some for them.
  GgufWriter Write() const {
    GgufWriter writer;
    for (const auto& [key, value] : strings) writer.String(key, value);
    for (const auto& [key, value] : ints) writer.Uint32(key, value);
    for (const auto& [key, value] : floats) writer.Float32(key, value);
    for (const auto& [key, value] : string_arrays) writer.Strings(key, value);
    for (const auto& [key, value] : int_arrays) writer.Array(key, kGgufInt32, value);
    for (const auto& [name, shape] : shapes) {
      uint64_t elements = 1;
      for (const uint64_t size : shape) elements *= size;
      const auto own = values.find(name);
      writer.TensorF32(name, shape,
                       own == values.end() ? std::vector<float>(elements) : own->second);
    }
    return writer;
  }

  std::map<std::string, std::string> strings;
  std::map<std::string, uint32_t> ints;
  std::map<std::string, float> floats;
  std::map<std::string, std::vector<std::string>> string_arrays;
  std::map<std::string, std::vector<int32_t>> int_arrays;
  std::map<std::string, std::vector<uint64_t>> shapes;
  std::map<std::string, std::vector<float>> values;
};

}  // namespace winnow
