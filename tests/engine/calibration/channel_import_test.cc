#include "engine/calibration/channel_import.h"

#include <span>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/model/gguf_writer.h"

namespace winnow {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

ModelConfig Config(int kv_heads, RopePairing pairing) {
  ModelConfig config;
  config.layers = 1;
  config.heads = 2;
  config.kv_heads = kv_heads;
  config.head_dim = 4;
  config.ropes.emplace_back().pairing = pairing;
  return config;
}

absl::StatusOr<ChannelRanking> Import(const std::string& json, const ModelConfig& config,
                                      const std::string& which = "qk") {
  const TemporaryFile file(std::as_bytes(std::span(json)));
  return ImportChannelRanking(file.path(), config, which);
}

// Places in the first list: 3 2 1 0 -> 0 1 2 3; in the second: 2 3 0 1 -> 0 1 2 3. Sums by channel:
// 0: 3 + 2 = 5, 1: 2 + 3 = 5, 2: 1 + 0 = 1, 3: 0 + 1 = 1.
constexpr const char* kTwoHeads =
    R"({"model.layers.0.self_attn.qk_proj": [[3, 2, 1, 0], [2, 3, 0, 1]],
        "model.layers.0.self_attn.k_proj": [[1, 3, 0, 2]]})";

TEST(ChannelImportTest, QueryHeadsOfAGroupAreJoinedByMeanPlace) {
  const auto ranking = Import(kTwoHeads, Config(1, RopePairing::kHalves));
  ASSERT_TRUE(ranking.ok()) << ranking.status();
  EXPECT_THAT(*ranking, ElementsAre(ElementsAre(2, 3, 0, 1)));
}

TEST(ChannelImportTest, ChannelsAreRenumberedForFilesThatRotateNeighbours) {
  // Halves (0, 2) and (1, 3) become neighbours: 0 -> 0, 2 -> 1, 1 -> 2, 3 -> 3.
  const auto ranking = Import(kTwoHeads, Config(1, RopePairing::kAdjacent));
  ASSERT_TRUE(ranking.ok()) << ranking.status();
  EXPECT_THAT(*ranking, ElementsAre(ElementsAre(1, 3, 0, 2)));
}

TEST(ChannelImportTest, EachKvHeadHasItsOwnListWithoutGroups) {
  const auto halves = Import(kTwoHeads, Config(2, RopePairing::kHalves));
  ASSERT_TRUE(halves.ok()) << halves.status();
  EXPECT_THAT(*halves, ElementsAre(ElementsAre(3, 2, 1, 0), ElementsAre(2, 3, 0, 1)));
  const auto adjacent = Import(kTwoHeads, Config(2, RopePairing::kAdjacent));
  ASSERT_TRUE(adjacent.ok()) << adjacent.status();
  EXPECT_THAT(*adjacent, ElementsAre(ElementsAre(3, 1, 2, 0), ElementsAre(1, 3, 0, 2)));
}

TEST(ChannelImportTest, ListsOfKvHeadsAreTakenAsTheyAre) {
  const auto ranking = Import(kTwoHeads, Config(1, RopePairing::kHalves), "k");
  ASSERT_TRUE(ranking.ok()) << ranking.status();
  EXPECT_THAT(*ranking, ElementsAre(ElementsAre(1, 3, 0, 2)));
}

TEST(ChannelImportTest, WhatDoesNotFitIsRefusedWithTheReason) {
  const std::string key = R"("model.layers.0.self_attn.qk_proj")";
  const ModelConfig config = Config(1, RopePairing::kHalves);
  const auto reason = [&](const std::string& json, const std::string& which = "qk") {
    const auto ranking = Import(json, config, which);
    EXPECT_EQ(ranking.status().code(), absl::StatusCode::kInvalidArgument) << json;
    return std::string(ranking.status().message());
  };
  EXPECT_THAT(reason("[]"), HasSubstr("JSON object"));
  EXPECT_THAT(reason("{"), HasSubstr("JSON object"));
  EXPECT_THAT(reason(kTwoHeads, "q"), HasSubstr("q_proj is missing"));
  EXPECT_THAT(reason("{" + key + ": 5}"), HasSubstr("0 lists"));
  EXPECT_THAT(reason("{" + key + ": [[0,1,2,3],[0,1,2,3],[0,1,2,3]]}"), HasSubstr("3 lists"));
  for (const char* list : {"[0,1,2]", "[0,1,2,4]", "[0,1,2,2]", "[0,1,2,-1]", "[0,1,2,2.5]",
                           "[0,1,2,\"3\"]", "7", "[0,1,2,1e300]"}) {
    EXPECT_THAT(reason("{" + key + ": [[0,1,2,3]," + list + "]}"), HasSubstr("[1] is not a perm"))
        << list;
  }
  EXPECT_THAT(reason("{" + key + ": [[0,1,2,3]], \"model.layers.1.self_attn.qk_proj\": []}"),
              HasSubstr("more layers"));
  EXPECT_EQ(ImportChannelRanking("/nonexistent", config, "qk").status().code(),
            absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace winnow
