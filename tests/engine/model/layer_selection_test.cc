#include "engine/model/layer_selection.h"

#include <cmath>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/cpu_backend.h"

namespace winnow {
namespace {

constexpr int kLayers = 3;
constexpr int kKvHeads = 2;
constexpr int kHeadDim = 16;
constexpr int kWidth = 8;

/// Random labels; layer l's budget weights are 10 l and 10 l + 1.
LabelFile RandomLabels() {
  LabelFile file;
  file.kv_heads = kKvHeads;
  file.head_dim = kHeadDim;
  file.width = kWidth;
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  for (int l = 0; l < kLayers; ++l) {
    LabelFile::Layer& layer = file.layers.emplace_back();
    for (int i = 0; i < kKvHeads * kHeadDim * kWidth; ++i) {
      layer.query.push_back(normal(random));
      layer.key.push_back(normal(random));
    }
    for (int i = 0; i < kKvHeads * kWidth; ++i) {
      layer.low.push_back(-2 + 0.5f * normal(random));
      layer.high.push_back(3 + 0.5f * normal(random));
    }
    for (int g = 0; g < kKvHeads; ++g) {
      file.budget_weights.push_back(static_cast<float>(10 * l + g));
    }
  }
  return file;
}

ModelConfig Config() {
  ModelConfig config;
  config.layer.resize(3);
  return config;
}

TEST(LayerSelectionTest, AttendsAsTheConfigurationSaysOfItsLayer) {
  ModelConfig config = Config();
  config.layer[1].sliding_window = 64;
  config.attention_scale = 0.5f;
  config.attention_soft_cap = 30;
  for (int layer = 0; layer < 3; ++layer) {
    const LayerSelection selection({}, config, layer);
    EXPECT_EQ(selection.attention().sliding_window, layer == 1 ? 64 : 0);
    EXPECT_EQ(selection.attention().scale, 0.5f);
    EXPECT_EQ(selection.attention().soft_cap, 30);
  }
}

TEST(LayerSelectionTest, WithoutLabelsHasNeitherBasisNorWeights) {
  const LayerSelection selection({.sinks = 3, .window = 7, .min_context = 50, .dense_layers = 1},
                                 Config(), 1);
  EXPECT_EQ(selection.attention().sinks, 3);
  EXPECT_EQ(selection.attention().window, 7);
  EXPECT_EQ(selection.attention().min_context, 50);
  EXPECT_EQ(selection.attention().budget_weights, nullptr);
  EXPECT_EQ(selection.label_width(), 0);
}

TEST(LayerSelectionTest, TheFirstLayersStayDenseAtEveryContext) {
  const LayerSelection selection({.dense_layers = 1}, Config(), 0);
  EXPECT_EQ(selection.attention().min_context, std::numeric_limits<int32_t>::max());
}

TEST(LayerSelectionTest, CountsLabelsOfItsLayerInStepsOfTheirRanges) {
  const LabelFile file = RandomLabels();
  const std::unique_ptr<Backend> backend = CreateCpuBackend({.threads = 1});
  const auto loaded = LayerSelection::WithLabels({}, Config(), 1, file, *backend);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->label_width(), kWidth);
  const LabelCodec& basis = loaded->attention().basis;
  const LabelFile::Layer& layer = file.layers[1];
  for (int g = 0; g < kKvHeads; ++g) {
    for (int i = 0; i < kWidth; ++i) {
      const int range = g * kWidth + i;
      const double step = (double{layer.high[range]} - layer.low[range]) / 15;
      EXPECT_NEAR(basis.offset[range] * step, -layer.low[range], 1e-5);
      for (int c = 0; c < kHeadDim; ++c) {
        const int element = (g * kHeadDim + c) * kWidth + i;
        EXPECT_NEAR(basis.key[element] * step, layer.key[element], 1e-5);
        EXPECT_NEAR(basis.query[element], layer.query[element] * step, 1e-5);
      }
    }
  }
}

TEST(LayerSelectionTest, SpreadsTheBudgetAsTheFileSaysUnlessItIsUniform) {
  const LabelFile file = RandomLabels();
  const std::unique_ptr<Backend> backend = CreateCpuBackend({.threads = 1});
  auto loaded = LayerSelection::WithLabels({}, Config(), 2, file, *backend);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const LayerSelection moved = *std::move(loaded);
  EXPECT_EQ(moved.attention().budget_weights[0], 20);
  EXPECT_EQ(moved.attention().budget_weights[1], 21);

  const auto uniform =
      LayerSelection::WithLabels({.uniform_budgets = true}, Config(), 2, file, *backend);
  ASSERT_TRUE(uniform.ok()) << uniform.status();
  EXPECT_EQ(uniform->attention().budget_weights, nullptr);
}

}  // namespace
}  // namespace winnow
