#include "engine/eval/perplexity.h"

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

/// Mean loss of the second half of `window`, one token a step, in a pool of its own.
double LossTokenByToken(std::span<const int32_t> window, const AttentionPolicy& policy) {
  RandomModel model(kContext);
  std::vector<int32_t> blocks(static_cast<size_t>(model.transformer().pools().Layer(0).blocks));
  std::iota(blocks.rbegin(), blocks.rend(), 0);
  double loss = 0;
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
    const int32_t next = window[static_cast<size_t>(position) + 1];
    loss += std::log(sum) - logits[static_cast<size_t>(next)];
  }
  return loss / (kContext - kHalf);
}

TEST(PerplexityTest, IsThatOfDecodingTheSecondHalvesTokenByToken) {
  const std::vector<int32_t> text = RandomModel::Tokens(2 * kContext + 5);
  const auto results = Evaluate(text, Policies(), Options(2));
  ASSERT_EQ(results.size(), Policies().size());
  for (const PerplexityResult& result : results) {
    SCOPED_TRACE(PolicyName(result.policy.kind));
    const double loss =
        (LossTokenByToken(std::span(text).first(kContext), result.policy) +
         LossTokenByToken(std::span(text).subspan(kContext, kContext), result.policy)) /
        2;
    EXPECT_NEAR(result.loss, loss, 1e-6);
    EXPECT_NEAR(result.perplexity, std::exp(loss), 1e-5 * std::exp(loss));
    EXPECT_EQ(result.tokens, 2 * (kContext - kHalf));
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
