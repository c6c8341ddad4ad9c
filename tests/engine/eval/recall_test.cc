#include "engine/eval/recall.h"

#include <cmath>
#include <regex>
#include <string>
#include <vector>

#include "engine/eval/heat_map.h"
#include "gtest/gtest.h"
#include "tests/engine/eval/random_model.h"

namespace winnow {
namespace {

constexpr int kContext = 80;

std::vector<RecallResult> Evaluate(std::span<const AttentionPolicy> policies,
                                   const RecallEvalOptions& options) {
  RandomModel model(kContext);
  const std::vector<int32_t> text = RandomModel::Tokens(kContext * options.windows);
  auto results = EvalRecall(model.transformer(), text, policies, options);
  EXPECT_TRUE(results.ok()) << results.status();
  return *std::move(results);
}

RecallEvalOptions Options() {
  return {.context = kContext,
          .windows = 2,
          .sampled_rows = 40,
          .block_tokens = RandomModel::kBlockTokens,
          .step_rows = RandomModel::kStepTokens};
}

TEST(RecallTest, DenseAttentionHoldsEverything) {
  const std::vector<AttentionPolicy> policies = {{.kind = SelectionKind::kAll},
                                                 {.kind = SelectionKind::kScores, .sparsity = 1}};
  for (const RecallResult& result : Evaluate(policies, Options())) {
    EXPECT_EQ(result.layers(), 2);
    EXPECT_EQ(result.kv_heads, 1);
    for (const double recall : result.recall) EXPECT_EQ(recall, 1);
  }
}

TEST(RecallTest, TrueScoresHoldMoreThanOthersInTheFirstLayer) {
  const std::vector<AttentionPolicy> policies = {{.kind = SelectionKind::kScores, .sparsity = 8},
                                                 {.kind = SelectionKind::kLabels, .sparsity = 8},
                                                 {.kind = SelectionKind::kWindow, .sparsity = 8}};
  const auto results = Evaluate(policies, Options());
  EXPECT_LT(results[0].recall[0], 1);
  EXPECT_GT(results[0].recall[0], results[1].recall[0]);
  EXPECT_GT(results[0].recall[0], results[2].recall[0]);
}

// The first layer's keys and queries do not depend on what layers before it selected, so each row
// probed by itself must say the same.
TEST(RecallTest, IsTheMeanOverRowsProbedOneByOne) {
  const std::vector<AttentionPolicy> policies = {{.kind = SelectionKind::kLabels, .sparsity = 8}};
  RecallEvalOptions options = Options();
  options.windows = 1;
  const double recall = Evaluate(policies, options)[0].recall[0];

  RandomModel model(kContext);
  const std::vector<int32_t> text = RandomModel::Tokens(kContext);
  SequenceRunner runner(model.transformer(), FirstBlocks(kContext, RandomModel::kBlockTokens), 1);
  double sum = 0;
  for (int position = 0; position < kContext; ++position) {
    const std::vector<RecallProbe> probes = {{.row = position, .layer = 0, .kv_head = 0}};
    std::vector<ProbedMass> probed(1);
    const auto status =
        runner.Compute({.tokens = std::span(text).first(static_cast<size_t>(position) + 1),
                        .begin = position,
                        .selection = SelectionOf(policies[0]),
                        .probes = probes,
                        .probed = probed});
    ASSERT_TRUE(status.ok()) << status;
    if (position >= kContext / 2) sum += probed[0].recall;
  }
  EXPECT_NEAR(recall, sum / (kContext / 2), 1e-6);
}

TEST(RecallTest, MoreSamplesThanRowsProbeEveryRowOnce) {
  const std::vector<AttentionPolicy> policies = {{.kind = SelectionKind::kWindow, .sparsity = 8}};
  RecallEvalOptions options = Options();
  const double all = Evaluate(policies, options)[0].recall[0];
  options.sampled_rows = 1000;
  EXPECT_EQ(Evaluate(policies, options)[0].recall[0], all);
}

int Count(const std::string& text, const std::string& pattern) {
  const std::regex regex(pattern);
  return static_cast<int>(
      std::distance(std::sregex_iterator(text.begin(), text.end(), regex), std::sregex_iterator()));
}

TEST(HeatMapTest, ShowsEveryHeadOfEveryPolicyWithItsValue) {
  const RecallResult first = {{}, {1, 0.5, 0.25, 0.75}, 2};
  const RecallResult second = {{}, {0.9, 0.9, 0.9, 0.9}, 2};
  const std::vector<HeatMapPanel> panels = {{"one", &first}, {"two <&>", &second}};
  const std::string svg = RecallHeatMapSvg("a \"model\"", panels);
  EXPECT_EQ(Count(svg, "<title>layer"), 8);
  EXPECT_EQ(Count(svg, "<title>layer 0, KV head 1: 0\\.5000</title>"), 1);
  EXPECT_EQ(Count(svg, "<title>layer 1, KV head 0: 0\\.2500</title>"), 1);
  EXPECT_EQ(Count(svg, "one: mean 62\\.5 %"), 1);
  EXPECT_EQ(Count(svg, "two &lt;&amp;&gt;: mean 90\\.0 %"), 1);
  EXPECT_EQ(Count(svg, "a &quot;model&quot;"), 1);
  // The scale begins at the tenth below the worst.
  EXPECT_EQ(Count(svg, ">20 %</text>"), 1);
  EXPECT_EQ(Count(svg, ">100 %</text>"), 1);
  EXPECT_EQ(Count(svg, "nan|inf"), 0);
}

TEST(HeatMapTest, AllOfDenseAttentionHasAScaleToo) {
  const RecallResult dense = {{}, {1, 1}, 1};
  const std::vector<HeatMapPanel> panels = {{"dense", &dense}};
  const std::string svg = RecallHeatMapSvg("", panels);
  EXPECT_EQ(Count(svg, ">90 %</text>"), 1);
  EXPECT_EQ(Count(svg, "nan|inf"), 0);
}

}  // namespace
}  // namespace winnow
