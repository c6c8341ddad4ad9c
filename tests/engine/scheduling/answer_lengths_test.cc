#include "engine/scheduling/answer_lengths.h"

#include <gtest/gtest.h>

namespace winnow {
namespace {

Request Endless() {
  Request request;
  request.ignore_eos = true;
  return request;
}
const Request kEndsByItself;

TEST(AnswerLengthsTest, WhoIgnoresTheEndGetsAllTokens) {
  AnswerLengths lengths;
  for (int i = 0; i < 10; ++i) lengths.NoteEnd(kEndsByItself, 1, 100);
  EXPECT_EQ(lengths.AtLeast(Endless(), 70), 70);
  EXPECT_EQ(lengths.Expected(Endless(), 70), 70);
}

TEST(AnswerLengthsTest, BeforeAnyHasEndedItMayBeOneTokenOrAll) {
  const AnswerLengths lengths;
  EXPECT_EQ(lengths.AtLeast(kEndsByItself, 400), 1);
  EXPECT_EQ(lengths.Expected(kEndsByItself, 400), 400);
}

TEST(AnswerLengthsTest, LearnsHowMuchOfTheirLimitContinuationsUse) {
  AnswerLengths lengths;
  lengths.NoteEnd(kEndsByItself, 20, 400);
  EXPECT_LT(lengths.AtLeast(kEndsByItself, 1000), 0.6 * 50) << "one says little";
  for (int i = 0; i < 500; ++i) lengths.NoteEnd(kEndsByItself, i % 2 == 0 ? 20 : 60, 400);
  EXPECT_NEAR(lengths.AtLeast(kEndsByItself, 1000), 100, 2);
  EXPECT_NEAR(lengths.Expected(kEndsByItself, 1000), 100, 2);
  for (int i = 0; i < 500; ++i) lengths.NoteEnd(Endless(), 400, 400);
  EXPECT_NEAR(lengths.AtLeast(kEndsByItself, 1000), 100, 2) << "they had no choice";
}

}  // namespace
}  // namespace winnow
