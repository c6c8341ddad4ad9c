#include "engine/model/kv_layout.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

namespace winnow {
namespace {

using ::testing::ElementsAre;

/// A model whose every `period`-th layer sees all; others have a window. 0: all have one.
ModelConfig Config(int layers, int period) {
  ModelConfig config;
  config.layers = layers;
  config.kv_heads = 2;
  config.head_dim = 64;
  config.layer.resize(static_cast<size_t>(layers));
  for (int i = 0; i < layers; ++i) {
    const bool sees_all = period > 0 && (i + 1) % period == 0;
    config.layer[static_cast<size_t>(i)].sliding_window = sees_all ? 0 : 512;
  }
  return config;
}

TEST(KvLayoutTest, LayersThatKeepTheSameAreOneGroup) {
  const KvGroups groups = KvGroups::Of(Config(30, 1));
  EXPECT_THAT(groups.windows, ElementsAre(0));
  EXPECT_EQ(groups.layers, 30);
  EXPECT_THAT(KvGroups::Of(Config(32, 0)).windows, ElementsAre(512));
  EXPECT_EQ(KvBytesPerToken(Config(30, 1)), 30 * 2 * 2 * 64 * 2);
}

TEST(KvLayoutTest, GroupsOfTwoKindsHaveTheSameNumberOfLayers) {
  const KvGroups groups = KvGroups::Of(Config(26, 2));
  EXPECT_THAT(groups.windows, ElementsAre(512, 0));
  EXPECT_EQ(groups.layers, 13);
  const std::vector<KvShape> layout = KvLayout(
      Config(26, 2), {.blocks = 5, .block_tokens = 16, .label_width = 8, .summary_slots = 3});
  for (int i = 0; i < 26; ++i) {
    EXPECT_EQ(layout[static_cast<size_t>(i)].group, i % 2);
    EXPECT_EQ(layout[static_cast<size_t>(i)].label_width, i % 2 == 0 ? 0 : 8);
    EXPECT_EQ(layout[static_cast<size_t>(i)].summary_slots, i % 2 == 0 ? 0 : 3);
    EXPECT_EQ(layout[static_cast<size_t>(i)].blocks, 2 * 5);
  }
}

TEST(KvLayoutTest, LittleMemoryIsIdleWhereKindsDoNotDivide) {
  // Gemma 3's layers: of 4, 12 and 27 billion weights.
  for (const int layers : {34, 48, 62}) {
    const ModelConfig config = Config(layers, 6);
    const KvGroups groups = KvGroups::Of(config);
    EXPECT_LE(groups.count(), KvGroups::kMost);
    EXPECT_LE(groups.count() * groups.layers, layers * 1.13);
    std::vector<int> size(static_cast<size_t>(groups.count()));
    for (int i = 0; i < layers; ++i) {
      const int group = groups.of_layer[static_cast<size_t>(i)];
      ++size[static_cast<size_t>(group)];
      EXPECT_EQ(groups.windows[static_cast<size_t>(group)],
                config.layer[static_cast<size_t>(i)].sliding_window);
    }
    for (const int of_group : size) EXPECT_LE(of_group, groups.layers);
  }
}

}  // namespace
}  // namespace winnow
