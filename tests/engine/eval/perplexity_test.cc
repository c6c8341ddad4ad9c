#include "engine/eval/perplexity.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "gtest/gtest.h"
#include "tests/engine/eval/random_model.h"

namespace winnow {
namespace {

// An odd half that is no multiple of the block size.
constexpr int kContext = 75;
constexpr int kHalf = 37;

const std::vector<AttentionPolicy>& Policies() {
  static const std::vector<AttentionPolicy> policies = {
      {.kind = SelectionKind::kAll},
      {.kind = SelectionKind::kLabels, .sparsity = 4},
      {.kind = SelectionKind::kWindow, .sparsity = 4},
      {.kind = SelectionKind::kScores, .sparsity = 4},
      {.kind = SelectionKind::kLabels, .budget_tokens = 9}};
  return policies;
}

PerplexityOptions Options(int windows) {
  return {.context = kContext,
          .windows = windows,
          .block_tokens = RandomModel::kBlockTokens,
          .step_rows = RandomModel::kStepTokens};
}

std::vector<PerplexityResult> Evaluate(std::span<const int32_t> text,
                                       std::span<const AttentionPolicy> policies,
                                       const PerplexityOptions& options) {
  RandomModel model(kContext);
  auto results = EvalPerplexity(model.transformer(), text, policies, options);
  EXPECT_TRUE(results.ok()) << results.status();
  return *std::move(results);
}

/// What predicts the second half of `window`, row by row: log-probabilities by one token a step, in
/// a pool of its own.
std::vector<std::vector<double>> PredictTokenByToken(std::span<const int32_t> window,
                                                     const AttentionPolicy& policy) {
  RandomModel model(kContext);
  std::vector<int32_t> blocks(static_cast<size_t>(model.transformer().pools().Layer(0).blocks));
  std::iota(blocks.rbegin(), blocks.rend(), 0);
  std::vector<std::vector<double>> rows;
  for (int position = 0; position + 1 < kContext; ++position) {
    const std::vector<int32_t> positions = {position};
    const std::vector<int32_t> query_begin = {0, 1};
    const std::vector<int32_t> logit_rows = {0};
    const std::vector<Selection> selections = {position < kHalf ? Selection{}
                                                                : SelectionOf(policy)};
    std::vector<float> logits(RandomModel::kVocab);
    const StepBatch batch = {.tokens = window.subspan(static_cast<size_t>(position), 1),
                             .positions = positions,
                             .query_begin = query_begin,
                             .block_tables = blocks,
                             .max_blocks = static_cast<int32_t>(blocks.size()),
                             .logit_rows = logit_rows,
                             .selections = selections};
    EXPECT_TRUE(model.transformer().Forward(batch, logits, {}).ok());
    if (position + 1 < kHalf) continue;
    double sum = 0;
    for (const float logit : logits) sum += std::exp(double{logit});
    std::vector<double>& row = rows.emplace_back();
    for (const float logit : logits) row.push_back(logit - std::log(sum));
  }
  return rows;
}

TEST(PerplexityTest, IsThatOfDecodingTheSecondHalvesTokenByToken) {
  const std::vector<int32_t> text = RandomModel::Tokens(2 * kContext + 5);
  const auto results = Evaluate(text, Policies(), Options(2));
  ASSERT_EQ(results.size(), Policies().size());
  for (const PerplexityResult& result : results) {
    SCOPED_TRACE(PolicyName(result.policy.kind));
    double loss = 0, dense_loss = 0, divergence = 0, same = 0;
    for (int w = 0; w < 2; ++w) {
      const auto window = std::span(text).subspan(static_cast<size_t>(w * kContext), kContext);
      const auto rows = PredictTokenByToken(window, result.policy);
      const auto dense = PredictTokenByToken(window, {});
      for (size_t i = 0; i < rows.size(); ++i) {
        const auto next = static_cast<size_t>(window[kHalf + i]);
        loss -= rows[i][next];
        dense_loss -= dense[i][next];
        for (size_t j = 0; j < rows[i].size(); ++j) {
          divergence += std::exp(dense[i][j]) * (dense[i][j] - rows[i][j]);
        }
        same += std::ranges::max_element(rows[i]) - rows[i].begin() ==
                std::ranges::max_element(dense[i]) - dense[i].begin();
      }
    }
    const int tokens = 2 * (kContext - kHalf);
    EXPECT_NEAR(result.loss, loss / tokens, 1e-6);
    EXPECT_NEAR(result.perplexity, std::exp(loss / tokens), 1e-5 * result.perplexity);
    EXPECT_EQ(result.tokens, tokens);
    ASSERT_EQ(result.from_dense.has_value(), result.policy.kind != SelectionKind::kAll);
    if (!result.from_dense) continue;
    EXPECT_NEAR(result.from_dense->loss.mean(), (loss - dense_loss) / tokens, 1e-6);
    EXPECT_NEAR(result.from_dense->divergence.mean(), divergence / tokens, 1e-6);
    EXPECT_NEAR(result.from_dense->agreement.mean(), same / tokens, 1e-12);
    EXPECT_GT(result.from_dense->divergence.mean(), 1e-4);
    EXPECT_LT(result.from_dense->agreement.mean(), 1);
  }
}

TEST(PerplexityTest, PoliciesDiffer) {
  const auto results = Evaluate(RandomModel::Tokens(kContext), Policies(), Options(1));
  for (size_t p = 1; p < results.size(); ++p) {
    EXPECT_GT(std::abs(results[p].loss - results[0].loss), 1e-4) << "policy " << p;
  }
}

TEST(PerplexityTest, SparsityOfOneIsDense) {
  const std::vector<AttentionPolicy> policies = {{.kind = SelectionKind::kAll},
                                                 {.kind = SelectionKind::kLabels, .sparsity = 1},
                                                 {.kind = SelectionKind::kWindow, .sparsity = 1},
                                                 {.kind = SelectionKind::kScores, .sparsity = 1}};
  const auto results = Evaluate(RandomModel::Tokens(2 * kContext), policies, Options(2));
  for (const PerplexityResult& result : results) {
    SCOPED_TRACE(PolicyName(result.policy.kind));
    EXPECT_EQ(result.loss, results[0].loss);
    EXPECT_EQ(result.recall, 1);
    if (result.from_dense) {
      EXPECT_EQ(result.from_dense->divergence.mean(), 0);
      EXPECT_EQ(result.from_dense->agreement.mean(), 1);
    }
    EXPECT_EQ(result.traffic.bytes(), result.traffic.equivalent_bytes);
    EXPECT_EQ(result.traffic.attended_tokens, result.traffic.context_tokens);
  }
}

TEST(PerplexityTest, DoesNotDependOnTheRowsOfAStep) {
  const std::vector<int32_t> text = RandomModel::Tokens(kContext);
  const auto expected = Evaluate(text, Policies(), Options(1));
  for (const int step_rows : {1, 7, 37}) {
    PerplexityOptions options = Options(1);
    options.step_rows = step_rows;
    const auto results = Evaluate(text, Policies(), options);
    for (size_t p = 0; p < results.size(); ++p) {
      EXPECT_EQ(results[p].loss, expected[p].loss) << step_rows << " rows, policy " << p;
      EXPECT_EQ(results[p].recall, expected[p].recall) << step_rows << " rows, policy " << p;
    }
  }
}

TEST(PerplexityTest, PoliciesDoNotDependOnThoseBeforeThem) {
  const std::vector<int32_t> text = RandomModel::Tokens(2 * kContext);
  const auto together = Evaluate(text, Policies(), Options(2));
  for (size_t p = 0; p < together.size(); ++p) {
    const auto alone = Evaluate(text, std::span(Policies()).subspan(p, 1), Options(2));
    EXPECT_EQ(alone[0].loss, together[p].loss) << "policy " << p;
    EXPECT_EQ(alone[0].recall, together[p].recall) << "policy " << p;
    EXPECT_FALSE(alone[0].from_dense) << "there is no dense one to compare with";
  }
}

TEST(PerplexityTest, DenseNeedNotComeFirst) {
  const std::vector<int32_t> text = RandomModel::Tokens(2 * kContext);
  const std::vector<AttentionPolicy> turned(Policies().rbegin(), Policies().rend());
  const auto expected = Evaluate(text, Policies(), Options(2));
  const auto results = Evaluate(text, turned, Options(2));
  for (size_t p = 1; p < expected.size(); ++p) {
    const PerplexityResult& result = results[expected.size() - 1 - p];
    EXPECT_EQ(result.loss, expected[p].loss) << "policy " << p;
    EXPECT_EQ(result.from_dense->divergence.mean(), expected[p].from_dense->divergence.mean());
  }
}

TEST(PerplexityTest, CountsWhatTheScoredRowsRead) {
  const auto results = Evaluate(RandomModel::Tokens(kContext), Policies(), Options(1));
  // 2 layers of 1 KV head; 16 dimensions of 2 bytes in a key and in a value; labels of 4 bytes.
  int64_t context = 0, quarter = 0, nine = 0;
  for (int tokens = kHalf + 1; tokens <= kContext; ++tokens) {
    context += 2 * tokens;
    quarter += 2 * ((tokens + 3) / 4);
    nine += 2 * 9;
  }
  EXPECT_EQ(results[0].traffic.bytes(), 64 * context);
  EXPECT_EQ(results[1].traffic.bytes(), 64 * quarter + 4 * context);
  EXPECT_EQ(results[2].traffic.bytes(), 64 * quarter);
  EXPECT_EQ(results[4].traffic.bytes(), 64 * nine + 4 * context);
  for (const PerplexityResult& result : results) {
    EXPECT_EQ(result.traffic.equivalent_bytes, 64 * context);
    EXPECT_EQ(result.traffic.context_tokens, context);
  }
  EXPECT_EQ(results[1].traffic.attended_tokens, quarter);
}

TEST(PerplexityTest, RecallIsBestForTrueScoresAndWholeForDense) {
  const auto results = Evaluate(RandomModel::Tokens(kContext), Policies(), Options(1));
  EXPECT_EQ(results[0].recall, 1);
  const double labels = results[1].recall, window = results[2].recall, scores = results[3].recall;
  EXPECT_GT(labels, 0);
  EXPECT_LT(scores, 1);
  EXPECT_GT(scores, labels);
  EXPECT_GT(scores, window);
}

TEST(PerplexityTest, ObserverHearsOfEveryRow) {
  RandomModel model(kContext);
  int64_t rows = 0;
  ASSERT_TRUE(EvalPerplexity(model.transformer(), RandomModel::Tokens(2 * kContext), Policies(),
                             Options(2), [&](int count) { rows += count; })
                  .ok());
  EXPECT_EQ(rows, PerplexityRows(Options(2), static_cast<int>(Policies().size())));
}

}  // namespace
}  // namespace winnow
