#include "engine/eval/answer_scores.h"

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "gtest/gtest.h"

namespace winnow {
namespace {

// tests/golden/README.md.
TEST(AnswerScoresTest, AreThoseOfTheReference) {
  const auto golden = nlohmann::json::parse(std::ifstream("tests/golden/answer_scores.json"));
  ASSERT_GT(golden["cases"].size(), 100u);
  for (const auto& test : golden["cases"]) {
    SCOPED_TRACE(test.dump());
    const auto answer = test["answer"].get<std::string>();
    const auto expected = test["expected"].get<std::string>();
    EXPECT_EQ(NormalizeAnswer(answer), test["normalized"].get<std::string>());
    EXPECT_NEAR(AnswerF1(answer, expected), test["f1"].get<double>(), 1e-9);
    EXPECT_EQ(ExactMatch(answer, expected), test["exact_match"].get<double>());
    // The reference adds 1e-8 to a denominator.
    EXPECT_NEAR(RougeL(answer, expected), test["rouge_l"].get<double>(), 1e-7);
  }
}

TEST(AnswerScoresTest, TheBestOfSeveralExpectedTextsCounts) {
  const AnswerScores scores =
      ScoreAnswer("the old lighthouse", {"nothing", "Lighthouse", "an old one"});
  EXPECT_DOUBLE_EQ(scores.f1, 2.0 / 3);  // of "lighthouse": precision 1/2, recall 1
  EXPECT_EQ(scores.exact_match, 0);
  EXPECT_DOUBLE_EQ(scores.rouge_l, 1.0 / 3);  // of "an old one": one word of three
  EXPECT_EQ(ScoreAnswer("x", {}).f1, 0);
  EXPECT_EQ(ScoreAnswer("The X.", {"y", "x"}).exact_match, 1);
}

TEST(AnswerScoresTest, BytesThatAreNoUtf8AreOnlyWrongWords) {
  EXPECT_DOUBLE_EQ(AnswerF1("good \xFF\xC3", "good"), 2.0 / 3);
  EXPECT_DOUBLE_EQ(RougeL("good \xFF\xC3", "good"), 2.0 / 3);
}

}  // namespace
}  // namespace winnow
