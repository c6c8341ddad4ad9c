#include "engine/scheduling/step_costs.h"

#include <gtest/gtest.h>

namespace winnow {
namespace {

TEST(StepCostsTest, TellsStepsAndPromptsApart) {
  StepCosts costs;
  EXPECT_FALSE(costs.known());
  for (int i = 0; i < 300; ++i) {
    const int rows = 1 + i % 40;
    costs.NoteStep({}, rows, 0.010 + 0.002 * rows);
    costs.NoteStep({{0, 200}}, rows, 0.010 + 0.002 * rows + 200 * 0.005);
  }
  EXPECT_TRUE(costs.known());
  EXPECT_NEAR(costs.PrefillSeconds(1000), 5, 0.1);
  for (const int rows : {1, 20, 64}) {
    EXPECT_NEAR(costs.DecodeSeconds(rows), 0.010 + 0.002 * rows, 0.006) << rows;
  }
}

TEST(StepCostsTest, TakesTimeToBeProportionalToRowsThatNeverVaried) {
  StepCosts costs;
  for (int i = 0; i < 50; ++i) costs.NoteStep({}, 4, 0.2);
  EXPECT_NEAR(costs.DecodeSeconds(4), 0.2, 1e-9);
  EXPECT_NEAR(costs.DecodeSeconds(8), 0.4, 1e-9);
}

TEST(StepCostsTest, FollowsAMachineThatGetsSlower) {
  StepCosts costs;
  for (int i = 0; i < 300; ++i) costs.NoteStep({{0, 100}}, 0, 0.1);
  for (int i = 0; i < 300; ++i) costs.NoteStep({{0, 100}}, 0, 0.4);
  EXPECT_NEAR(costs.PrefillSeconds(100), 0.4, 0.03);
}

TEST(StepCostsTest, LearnsHowMuchOfTheirLimitContinuationsUse) {
  StepCosts costs;
  Request request;
  EXPECT_EQ(costs.ExpectedTokens(request, 400), 400);
  for (int i = 0; i < 500; ++i) costs.NoteEnd(request, i % 2 == 0 ? 20 : 60, 400);
  EXPECT_NEAR(costs.ExpectedTokens(request, 1000), 100, 2);
  request.ignore_eos = true;  // runs to its limit
  EXPECT_EQ(costs.ExpectedTokens(request, 1000), 1000);
  for (int i = 0; i < 500; ++i) costs.NoteEnd(request, 400, 400);
  request.ignore_eos = false;
  EXPECT_NEAR(costs.ExpectedTokens(request, 1000), 100, 2);
}

}  // namespace
}  // namespace winnow
