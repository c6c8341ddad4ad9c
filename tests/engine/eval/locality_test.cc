#include "engine/eval/locality.h"

#include <vector>

#include "gtest/gtest.h"
#include "tests/engine/eval/random_model.h"

namespace winnow {
namespace {

using FirstLayer = RandomModel::FirstLayer;

constexpr int kContext = 400;

LocalityOptions Options() {
  return {.context = kContext,
          .steps = 60,
          .warm_up = 20,
          .selection = SelectionOf({.kind = SelectionKind::kLabels, .sparsity = 8}),
          .block_tokens = RandomModel::kBlockTokens,
          .step_rows = RandomModel::kStepTokens};
}

LocalityResult Evaluate(const LocalityOptions& options, FirstLayer first = FirstLayer::kAdds) {
  RandomModel model(kContext, /*tail=*/0, first);
  auto result = EvalLocality({.transformer = model.transformer(),
                              .backend = model.backend(),
                              .weights = model.weights(),
                              .labels = model.labels(),
                              .selection = RandomModel::Options()},
                             RandomModel::Tokens(kContext), options);
  EXPECT_TRUE(result.ok()) << result.status();
  return *std::move(result);
}

TEST(LocalityTest, EveryHeadsRowsAreItsBudgetBesideSinksAndWindow) {
  const LocalityResult result = Evaluate(Options());
  ASSERT_EQ(result.layers(), 2);
  int64_t rows = 0;
  for (int position = kContext - 60; position < kContext; ++position) {
    rows += (position + 1 + 7) / 8 - 3;
  }
  for (const LocalityCounts& head : result.heads) EXPECT_EQ(head.rows, rows);
  EXPECT_EQ(result.Total().rows, 2 * rows);
  EXPECT_EQ(result.Total().heads, 2);
}

TEST(LocalityTest, LargerCachesHaveMoreAndNoneMoreThanTheBest) {
  for (const LocalityCounts& head : Evaluate(Options()).heads) {
    EXPECT_GT(head.overlap, 0);
    EXPECT_EQ(head.ages.by_age[0], head.overlap);
    EXPECT_GE(head.lru_hits[0], head.overlap);
    for (size_t i = 1; i < kCacheSizes.size(); ++i) {
      EXPECT_GE(head.lru_hits[i], head.lru_hits[i - 1]);
    }
    EXPECT_GE(head.best_hits, head.lru_hits[2]);
    EXPECT_LT(head.best_hits, head.rows);
  }
}

TEST(LocalityTest, AllLayersButTheFirstArePredicted) {
  const LocalityResult result = Evaluate(Options());
  EXPECT_EQ(result.head(0, 0).predictable_rows, 0);
  const LocalityCounts& second = result.head(1, 0);
  EXPECT_EQ(second.predictable_rows, second.rows);
  for (const auto& hits : {second.own_hits, second.fitted_hits}) {
    EXPECT_GT(hits[0], 0);
    EXPECT_GE(hits[1], hits[0]);
    EXPECT_GE(hits[2], hits[1]);
    EXPECT_LE(hits[2], second.rows);
  }
}

// The second layer's input is then the first one's, and its queries are linear in its norm.
TEST(LocalityTest, WhereTheLayerBeforeAddsNothingPredictionsAreRight) {
  const LocalityResult result = Evaluate(Options(), FirstLayer::kAddsNothing);
  const LocalityCounts& second = result.head(1, 0);
  // But for rows whose rank the row's own token changes.
  EXPECT_GT(static_cast<double>(second.own_hits[0]), 0.98 * static_cast<double>(second.rows));
  EXPECT_GT(static_cast<double>(second.fitted_hits[0]), 0.95 * static_cast<double>(second.rows));
  EXPECT_EQ(second.own_hits[2], second.rows);
}

TEST(LocalityTest, CountsDoNotDependOnHowManyRowsAStepComputes) {
  const LocalityResult many = Evaluate(Options());
  LocalityOptions options = Options();
  options.step_rows = 1;
  const LocalityResult one = Evaluate(options);
  for (size_t i = 0; i < many.heads.size(); ++i) {
    EXPECT_EQ(one.heads[i].overlap, many.heads[i].overlap);
    EXPECT_EQ(one.heads[i].lru_hits, many.heads[i].lru_hits);
    EXPECT_EQ(one.heads[i].best_hits, many.heads[i].best_hits);
    EXPECT_EQ(one.heads[i].own_hits, many.heads[i].own_hits);
  }
}

TEST(LocalityTest, DenseLayersSelectNothing) {
  LocalityOptions options = Options();
  options.selection = SelectionOf({.kind = SelectionKind::kLabels, .sparsity = 1});
  EXPECT_EQ(Evaluate(options).Total().heads, 0);
}

}  // namespace
}  // namespace winnow
