#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "engine/cache/kv_pools.h"
#include "engine/model/config.h"
#include "engine/model/gguf.h"
#include "engine/model/kv_layout.h"
#include "engine/model/label_file.h"
#include "engine/model/transformer.h"
#include "gtest/gtest.h"
#include "kernels/cpu/cpu_backend.h"
#include "tests/engine/model/tiny_model.h"

namespace winnow {

/// A tiny model of random weights on the CPU, with random labels of width 8: its attention is
/// uneven enough that selections matter.
class RandomModel {
 public:
  static constexpr int kVocab = 48;
  static constexpr int kBlockTokens = 16;
  static constexpr int kStepTokens = 64;
  static constexpr int kSequences = 8;

  /// What the first layer adds to the residual stream.
  enum class FirstLayer { kAdds, kAddsNothing };

  /// A model whose KV pool holds `tokens`. The same weights every time. With a tail it estimates
  /// what up to kSequences sequences do not choose.
  explicit RandomModel(int tokens, float tail = 0, FirstLayer first_layer = FirstLayer::kAdds) {
    TinyModel tiny("llama");
    tiny.shapes["token_embd.weight"] = {kVocab, 32};
    std::mt19937 random(7);
    for (const auto& [name, shape] : tiny.shapes) {
      size_t elements = 1;
      for (const uint64_t size : shape) elements *= size;
      const bool norm = shape.size() == 1;
      const float columns = static_cast<float>(shape.back());
      std::normal_distribution<float> normal(norm ? 1.0f : 0.0f,
                                             norm ? 0.1f : 1.5f / std::sqrt(columns));
      std::vector<float>& values = tiny.values[name];
      for (size_t i = 0; i < elements; ++i) values.push_back(normal(random));
    }
    if (first_layer == FirstLayer::kAddsNothing) {
      for (const char* name : {"blk.0.attn_output.weight", "blk.0.ffn_down.weight"}) {
        std::ranges::fill(tiny.values.at(name), 0.0f);
      }
    }
    file_ = std::make_unique<TemporaryFile>(tiny.Write().Bytes());
    auto gguf = GgufFile::Open(file_->path());
    if (!gguf.ok()) {
      ADD_FAILURE() << gguf.status();
      return;
    }
    gguf_ = *std::move(gguf);
    const auto config = ModelConfig::FromGguf(*gguf_);
    if (!config.ok()) {
      ADD_FAILURE() << config.status();
      return;
    }
    labels_ = RandomLabels(*config, random);
    if (tail > 0) labels_.tail_weights.assign(labels_.budget_weights.size(), tail);
    backend_ = CreateCpuBackend({.threads = 2});
    auto pools = KvPools::Allocate(
        *backend_, KvLayout(*config, {.blocks = (tokens + kBlockTokens - 1) / kBlockTokens,
                                      .block_tokens = kBlockTokens,
                                      .label_width = labels_.width,
                                      .summary_slots = tail > 0 ? kSequences : 0}));
    if (!pools.ok()) {
      ADD_FAILURE() << pools.status();
      return;
    }
    pools_ = *std::move(pools);
    auto transformer = Transformer::Load(
        *gguf_, *config, *backend_, *pools_,
        {.max_step_tokens = kStepTokens, .selection = Options(), .labels = &labels_});
    if (!transformer.ok()) {
      ADD_FAILURE() << transformer.status();
      return;
    }
    transformer_ = *std::move(transformer);
  }

  Transformer& transformer() { return *transformer_; }
  KvPools& pools() { return *pools_; }
  Backend& backend() { return *backend_; }
  const WeightSource& weights() const { return *gguf_; }
  const LabelFile& labels() const { return labels_; }
  /// How its rows select.
  static SelectionOptions Options() { return {.sinks = 1, .window = 2}; }

  /// `count` random tokens, the same every time.
  static std::vector<int32_t> Tokens(int count) {
    std::mt19937 random(11);
    std::vector<int32_t> tokens;
    for (int i = 0; i < count; ++i) tokens.push_back(static_cast<int32_t>(random() % kVocab));
    return tokens;
  }

 private:
  static LabelFile RandomLabels(const ModelConfig& config, std::mt19937& random) {
    LabelFile labels;
    labels.kv_heads = config.kv_heads;
    labels.head_dim = config.head_dim;
    labels.width = 8;
    std::normal_distribution<float> normal;
    const auto ranges = static_cast<size_t>(config.kv_heads * labels.width);
    for (int l = 0; l < config.layers; ++l) {
      LabelFile::Layer layer;
      for (size_t i = 0; i < ranges * static_cast<size_t>(config.head_dim); ++i) {
        layer.query.push_back(normal(random));
        layer.key.push_back(normal(random));
      }
      layer.low.assign(ranges, -6.0f);
      layer.high.assign(ranges, 6.0f);
      labels.layers.push_back(layer);
    }
    labels.budget_weights.assign(static_cast<size_t>(config.layers * config.kv_heads), 1.0f);
    return labels;
  }

  std::unique_ptr<TemporaryFile> file_;
  std::unique_ptr<GgufFile> gguf_;
  LabelFile labels_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<KvPools> pools_;
  std::unique_ptr<Transformer> transformer_;
};

}  // namespace winnow
