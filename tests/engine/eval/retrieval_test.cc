#include "engine/eval/retrieval.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "gtest/gtest.h"
#include "tests/engine/eval/random_model.h"

namespace winnow {
namespace {

TEST(FirstNumberTest, IsWhatTheFirstDigitsSpell) {
  EXPECT_EQ(FirstNumber("The <REGISTER_CONTENT> in line b-c is <39256>."), 39256);
  EXPECT_EQ(FirstNumber("15, not 16"), 15);
  EXPECT_EQ(FirstNumber("39,256"), 39);
  EXPECT_EQ(FirstNumber("007"), 7);
  EXPECT_EQ(FirstNumber("-4"), 4);
  EXPECT_EQ(FirstNumber("x123456789012345678"), 123456789012345678);
}

TEST(FirstNumberTest, IsNoneWithoutDigitsOrBeyondWhatFits) {
  EXPECT_EQ(FirstNumber(""), std::nullopt);
  EXPECT_EQ(FirstNumber("none"), std::nullopt);
  EXPECT_EQ(FirstNumber("1234567890123456789"), std::nullopt);
}

/// Every fourth token stands for a digit, the others for letters; the last ends a generation.
class DigitTokenizer : public Tokenizer {
 public:
  std::vector<int32_t> EncodeSegments(std::span<const TextSegment>, bool,
                                      const std::atomic<bool>&) const override {
    return {};
  }
  std::string TokenBytes(int32_t token, bool) const override {
    return std::string(1,
                       static_cast<char>(token % 4 == 0 ? '0' + token / 4 % 10 : 'a' + token % 26));
  }
  int32_t vocab_size() const override { return RandomModel::kVocab; }
  int32_t bos_token() const override { return -1; }
  bool IsEndOfGeneration(int32_t token) const override { return token == vocab_size() - 1; }
  bool StripsLeadingSpace() const override { return false; }
};

constexpr int kPoolTokens = 128;

/// The log-likelihood of `expected` behind the prompt, as AnswerTokenByToken computes.
double ScoreTokenByToken(std::vector<int32_t> prompt, const std::vector<int32_t>& expected,
                         const AttentionPolicy& policy, int sparse_from) {
  RandomModel model(kPoolTokens);
  SequenceRunner runner(model.transformer(), FirstBlocks(kPoolTokens, RandomModel::kBlockTokens),
                        /*step_rows=*/1);
  std::vector<int32_t> tokens = prompt;
  tokens.insert(tokens.end(), expected.begin(), expected.end());
  double sum = 0;
  for (size_t position = 0; position + 1 < tokens.size(); ++position) {
    const auto row = static_cast<int>(position);
    const auto add = [&](int, std::span<const float> logits) {
      if (position + 1 < prompt.size()) return;
      double total = 0;
      for (const float x : logits) total += std::exp(static_cast<double>(x));
      sum += logits[static_cast<size_t>(tokens[position + 1])] - std::log(total);
    };
    const auto status =
        runner.Compute({.tokens = std::span(tokens).first(position + 1),
                        .begin = row,
                        .selection = row < sparse_from ? Selection{} : SelectionOf(policy),
                        .logits_from = row,
                        .visit = add});
    EXPECT_TRUE(status.ok()) << status;
  }
  return sum;
}

/// The greedy answer through one policy: one token a step, rows before `sparse_from` dense.
std::string AnswerTokenByToken(std::vector<int32_t> tokens, const AttentionPolicy& policy,
                               int sparse_from, int max_tokens) {
  RandomModel model(kPoolTokens);
  const DigitTokenizer tokenizer;
  SequenceRunner runner(model.transformer(), FirstBlocks(kPoolTokens, RandomModel::kBlockTokens),
                        /*step_rows=*/1);
  const auto prompt = static_cast<int>(tokens.size());
  std::string answer;
  for (int position = 0; static_cast<int>(answer.size()) < max_tokens; ++position) {
    int32_t next = 0;
    const auto choose = [&](int, std::span<const float> logits) {
      next = static_cast<int32_t>(std::ranges::max_element(logits) - logits.begin());
    };
    const auto status =
        runner.Compute({.tokens = std::span(tokens).first(static_cast<size_t>(position) + 1),
                        .begin = position,
                        .selection = position < sparse_from ? Selection{} : SelectionOf(policy),
                        .logits_from = position,
                        .visit = choose});
    EXPECT_TRUE(status.ok()) << status;
    if (position + 1 < prompt) continue;
    if (tokenizer.IsEndOfGeneration(next)) break;
    answer += tokenizer.TokenBytes(next, false);
    tokens.push_back(next);
  }
  return answer;
}

// Up to the end of the first number, where there is one.
std::string UpToFirstNumber(const std::string& answer) {
  const size_t first = answer.find_first_of("0123456789");
  if (first == std::string::npos) return answer;
  const size_t end = answer.find_first_not_of("0123456789", first);
  return end == std::string::npos ? answer : answer.substr(0, end + 1);
}

class RetrievalTest : public testing::TestWithParam<int> {};

TEST_P(RetrievalTest, AnswersAreThoseOfDecodingTokenByToken) {
  const int sparse_tail = GetParam();
  const AnswerOptions options = {.sparse_tail = sparse_tail,
                                 .max_tokens = 12,
                                 .block_tokens = RandomModel::kBlockTokens,
                                 .step_rows = RandomModel::kStepTokens};
  const std::vector<AttentionPolicy> policies = {{.kind = SelectionKind::kAll},
                                                 {.kind = SelectionKind::kLabels, .sparsity = 8},
                                                 {.kind = SelectionKind::kWindow, .sparsity = 8}};
  const std::vector<int32_t> text = RandomModel::Tokens(400);
  RetrievalCases cases;
  for (const int length : {90, 33, 101}) {
    const auto begin = text.begin() + 3 * length;
    cases.prompts.emplace_back(begin - length, begin);
    const std::string dense = AnswerTokenByToken(cases.prompts.back(), policies[0], 0, 12);
    cases.expected_numbers.push_back(FirstNumber(UpToFirstNumber(dense)).value_or(-1));
    cases.expected.emplace_back(begin, begin + length % 4 + 1);
  }

  RandomModel model(kPoolTokens);
  int64_t rows = 0;
  const auto results = EvalRetrieval(model.transformer(), DigitTokenizer(), cases, policies,
                                     options, [&](int count) { rows += count; });
  ASSERT_TRUE(results.ok()) << results.status();
  for (size_t p = 0; p < policies.size(); ++p) {
    const RetrievalResult& result = (*results)[p];
    int correct = 0;
    for (size_t i = 0; i < cases.prompts.size(); ++i) {
      const std::vector<int32_t>& prompt = cases.prompts[i];
      const int sparse_from = std::max(0, static_cast<int>(prompt.size()) - sparse_tail);
      const std::string expected =
          UpToFirstNumber(AnswerTokenByToken(prompt, policies[p], sparse_from, 12));
      EXPECT_EQ(result.answers[i], expected) << "policy " << p << ", case " << i;
      if (FirstNumber(expected) == cases.expected_numbers[i]) ++correct;
      EXPECT_NEAR(result.log_likelihoods[i],
                  ScoreTokenByToken(prompt, cases.expected[i], policies[p], sparse_from), 1e-4)
          << "policy " << p << ", case " << i;
    }
    EXPECT_EQ(result.correct, correct) << "policy " << p;
  }
  EXPECT_EQ(rows, AnswerRows(cases, options, static_cast<int>(policies.size())));
}

INSTANTIATE_TEST_SUITE_P(Tails, RetrievalTest, testing::Values(0, 1, 40, 1000));

}  // namespace
}  // namespace winnow
