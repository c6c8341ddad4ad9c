#pragma once

#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "engine/model/checkpoint.h"
#include "engine/model/config.h"
#include "gtest/gtest.h"
#include "tests/engine/model/tiny_model.h"

namespace winnow::test {

/// A TinyModel of random weights, opened: 2 layers, 2 query heads, 1 KV head of 16, 4 tokens.
/// `deviation` is that of the weights.
struct RandomTinyModel {
  explicit RandomTinyModel(unsigned seed, const std::string& architecture = "llama",
                           float deviation = 0.5f)
      : RandomTinyModel(seed, TinyModel::Of(architecture), deviation) {}

  /// The same with tensors that a test has chosen; those that it has given values keep them.
  RandomTinyModel(unsigned seed, TinyModel tiny, float deviation) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    for (const auto& [name, shape] : tiny.shapes) {
      uint64_t elements = 1;
      for (const uint64_t size : shape) elements *= size;
      std::vector<float>& values = tiny.values[name];
      if (!values.empty()) continue;
      for (uint64_t i = 0; i < elements; ++i) values.push_back(deviation * normal(random));
    }
    file = std::make_unique<TemporaryFile>(tiny.Write().Bytes());
    auto opened = Checkpoint::Open(file->path());
    EXPECT_TRUE(opened.ok()) << opened.status();
    checkpoint = *std::move(opened);
    config = checkpoint->config();
  }

  std::unique_ptr<TemporaryFile> file;
  std::unique_ptr<Checkpoint> checkpoint;
  ModelConfig config;
};

}  // namespace winnow::test
