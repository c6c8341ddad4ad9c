#include "engine/eval/choice.h"

#include <cmath>
#include <vector>

#include "gtest/gtest.h"
#include "tests/engine/eval/random_model.h"

namespace winnow {
namespace {

constexpr int kPoolTokens = 160;

/// The log-likelihood of `tokens` from `first` on, of a sequence that is computed one token a step,
/// rows before `sparse_from` densely.
double LogLikelihoodTokenByToken(const std::vector<int32_t>& tokens, int first, int sparse_from,
                                 const AttentionPolicy& policy) {
  RandomModel model(kPoolTokens);
  SequenceRunner runner(model.transformer(), FirstBlocks(kPoolTokens, RandomModel::kBlockTokens),
                        /*step_rows=*/1);
  double sum = 0;
  for (size_t position = 0; position + 1 < tokens.size(); ++position) {
    const auto score = [&](int at, std::span<const float> logits) {
      if (at + 1 < first) return;
      double total = 0;
      for (const float logit : logits) total += std::exp(static_cast<double>(logit));
      sum += logits[static_cast<size_t>(tokens[position + 1])] - std::log(total);
    };
    const int at = static_cast<int>(position);
    const auto status =
        runner.Compute({.tokens = std::span(tokens).first(position + 1),
                        .begin = at,
                        .selection = at < sparse_from ? Selection{} : SelectionOf(policy),
                        .logits_from = at,
                        .visit = score});
    EXPECT_TRUE(status.ok()) << status;
  }
  return sum;
}

/// Cases of 3 choices of 1 to 5 tokens.
std::vector<ChoiceCase> Cases() {
  const std::vector<int32_t> text = RandomModel::Tokens(600);
  std::vector<ChoiceCase> cases;
  for (const int length : {90, 33, 121}) {
    const auto begin = text.begin() + 4 * length;
    ChoiceCase question;
    question.prompt.assign(begin - length, begin);
    question.answer = 1;
    for (const int tokens : {5, 2, 1}) {
      question.choices.emplace_back(begin + tokens, begin + 2 * tokens);
      question.characters.push_back(3 * tokens + 1);
    }
    cases.push_back(question);
  }
  return cases;
}

size_t Largest(const std::vector<double>& values) {
  size_t largest = 0;
  for (size_t i = 1; i < values.size(); ++i) {
    if (values[i] > values[largest]) largest = i;
  }
  return largest;
}

class ChoiceTest : public testing::TestWithParam<int> {};

TEST_P(ChoiceTest, LogLikelihoodsAreThoseOfDecodingTokenByToken) {
  const int sparse_tail = GetParam();
  const ChoiceOptions options = {.sparse_tail = sparse_tail,
                                 .block_tokens = RandomModel::kBlockTokens,
                                 .step_rows = RandomModel::kStepTokens};
  const std::vector<AttentionPolicy> policies = {{.kind = SelectionKind::kAll},
                                                 {.kind = SelectionKind::kLabels, .sparsity = 8},
                                                 {.kind = SelectionKind::kWindow, .sparsity = 8}};
  const std::vector<ChoiceCase> cases = Cases();
  RandomModel model(kPoolTokens);
  int64_t rows = 0;
  const auto results =
      EvalChoice(model.transformer(), cases, policies, options, [&](int count) { rows += count; });
  ASSERT_TRUE(results.ok()) << results.status();
  for (size_t p = 0; p < policies.size(); ++p) {
    const ChoiceResult& result = (*results)[p];
    int correct = 0, correct_by_length = 0;
    for (size_t i = 0; i < cases.size(); ++i) {
      const ChoiceCase& question = cases[i];
      const int prompt = static_cast<int>(question.prompt.size());
      std::vector<double> expected, by_length;
      for (size_t c = 0; c < question.choices.size(); ++c) {
        std::vector<int32_t> tokens = question.prompt;
        tokens.insert(tokens.end(), question.choices[c].begin(), question.choices[c].end());
        expected.push_back(LogLikelihoodTokenByToken(
            tokens, prompt, std::max(0, prompt - sparse_tail), policies[p]));
        by_length.push_back(expected.back() / question.characters[c]);
        EXPECT_NEAR(result.log_likelihoods[i][c], expected[c], 1e-4)
            << "policy " << p << ", case " << i << ", choice " << c;
      }
      EXPECT_EQ(static_cast<size_t>(result.chosen[i]), Largest(expected));
      if (Largest(expected) == 1) ++correct;
      if (Largest(by_length) == 1) ++correct_by_length;
    }
    EXPECT_EQ(result.correct, correct) << "policy " << p;
    EXPECT_EQ(result.correct_by_length, correct_by_length) << "policy " << p;
  }
  EXPECT_EQ(rows, ChoiceRows(cases, options, static_cast<int>(policies.size())));
}

INSTANTIATE_TEST_SUITE_P(Tails, ChoiceTest, testing::Values(0, 1, 40, 1000));

TEST(ChoiceTest, TheLongestCaseIsThatOfPromptAndChoice) {
  EXPECT_EQ(LongestCase(Cases()), 121 + 5);
}

}  // namespace
}  // namespace winnow
