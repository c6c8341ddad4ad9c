#include "engine/scheduling/cost_fit.h"

#include <gtest/gtest.h>

#include <random>

#include "tests/engine/scheduling/known_costs.h"

namespace winnow {
namespace {

constexpr KnownCosts kCosts = {.steps = 0.01,
                               .prompt_tokens = 0.005,
                               .prompt_context = 2e-6,
                               .decode_tokens = 0.002,
                               .decode_context = 1e-6};

double Seconds(const Work& work) { return SecondsOf(work, kCosts); }

/// A hundred steps of 8 sequences.
const Work kDecodes = Step(8, 600).all * 100;

TEST(CostFitTest, TellsTheCostsOfTermsApart) {
  CostFit fit;
  Teach(kCosts, [&](const StepWork& step, double seconds) { fit.Add(step.all, seconds); });
  for (const Work& work : {Step(1, 10).all, Step(64, 2000).all, Step(0, 0, 0, 500).all,
                           Step(0, 0, 8000, 8500).all, Step(30, 100, 100, 400).all}) {
    EXPECT_NEAR(fit.SecondsOf(work).seconds / Seconds(work), 1, 0.03);
    EXPECT_NEAR(fit.SecondsOf(work).at_least / Seconds(work), 1, 0.25);
    EXPECT_LT(fit.SecondsOf(work).at_least, fit.SecondsOf(work).seconds);
  }
}

TEST(CostFitTest, KnowsNothingAtFirst) {
  CostFit fit;
  EXPECT_EQ(fit.SecondsOf(kDecodes).seconds, 0);
  EXPECT_EQ(fit.SecondsOf(kDecodes).at_least, 0);
  EXPECT_EQ(fit.trust(), 0);
}

// After a restart under load no step only decodes: all are full, and hold prompts.
TEST(CostFitTest, LearnsWhatDecodingCostsFromMixedStepsOfManySizes) {
  CostFit fit;
  std::mt19937_64 random(1);
  for (int i = 0; i < 100; ++i) {
    const int rows = std::uniform_int_distribution<int>(1, 500)(random);
    const Work step = Step(std::uniform_int_distribution<int>(1, 60)(random), 300, 0, rows).all;
    fit.Add(step, Seconds(step));
  }
  EXPECT_NEAR(fit.SecondsOf(Step(8, 300).all).seconds, Seconds(Step(8, 300).all), 0.005);
}

TEST(CostFitTest, StepsThatWereAllAlikeLeaveOpenWhatTheirTermsCost) {
  CostFit fit;
  for (int i = 0; i < 100; ++i) fit.Add(Step(4, 100).all, 0.2);
  EXPECT_NEAR(fit.SecondsOf(Step(4, 100).all).seconds, 0.2, 0.01);
  EXPECT_NEAR(fit.SecondsOf(Step(4, 100).all).at_least, 0.2, 0.01);
  // Twice the rows: from as long to twice as long.
  const Estimate twice = fit.SecondsOf(Step(8, 100).all);
  EXPECT_GT(twice.seconds, 0.2);
  EXPECT_LT(twice.seconds, 0.4);
  EXPECT_NEAR(twice.at_least, 0.2, 0.01);
  // A quarter of them: from a quarter of the time to all of it.
  const Estimate quarter = fit.SecondsOf(Step(1, 100).all);
  EXPECT_GT(quarter.seconds, 0.05);
  EXPECT_LT(quarter.seconds, 0.2);
  EXPECT_NEAR(quarter.at_least, 0.05, 0.01);
}

TEST(CostFitTest, FullStepsWithPromptsBoundWhatDecodingCosts) {
  CostFit fit;
  for (int i = 0; i < 30; ++i) {
    const Work step = Step(12, 300, 0, 500).all;
    fit.Add(step, Seconds(step));
  }
  EXPECT_LT(fit.SecondsOf(kDecodes).at_least, Seconds(kDecodes) * 4);
  EXPECT_GT(fit.SecondsOf(kDecodes).at_least, 0);
}

TEST(CostFitTest, AFewColdStepsTeachLittle) {
  CostFit fit;
  fit.Add(Step(0, 0, 0, 3).all, 10 * Seconds(Step(0, 0, 0, 3).all));
  for (int i = 0; i < 4; ++i) fit.Add(Step(1, 5).all, 5 * Seconds(Step(1, 5).all));
  EXPECT_LT(fit.SecondsOf(kDecodes).at_least, 2 * Seconds(kDecodes));
  for (int i = 0; i < 30; ++i) fit.Add(Step(8, 100 + i).all, Seconds(Step(8, 100 + i).all));
  EXPECT_LT(fit.SecondsOf(kDecodes).at_least, Seconds(kDecodes));
  EXPECT_GT(fit.SecondsOf(kDecodes).at_least, 0.5 * Seconds(kDecodes));
}

TEST(CostFitTest, NoiseMakesItLessSure) {
  CostFit sure;
  CostFit noisy;
  std::mt19937_64 random(1);
  std::lognormal_distribution<double> noise(-0.08, 0.4);
  Teach(kCosts, [&](const StepWork& step, double seconds) {
    sure.Add(step.all, seconds);
    noisy.Add(step.all, seconds * noise(random));
  });
  // Errors are relative to what a step took, so that slow ones count less.
  EXPECT_NEAR(noisy.SecondsOf(kDecodes).seconds / Seconds(kDecodes), 1, 0.3);
  EXPECT_LT(noisy.SecondsOf(kDecodes).at_least, 0.95 * sure.SecondsOf(kDecodes).at_least);
}

TEST(CostFitTest, FollowsAMachineThatGetsSlower) {
  CostFit fit;
  Teach(kCosts, [&](const StepWork& step, double seconds) { fit.Add(step.all, seconds); });
  Teach(kCosts * 4, [&](const StepWork& step, double seconds) { fit.Add(step.all, seconds); });
  EXPECT_NEAR(fit.SecondsOf(kDecodes).seconds / Seconds(kDecodes), 4, 0.2);
}

TEST(CostFitTest, RemembersWhatPromptsCostWhileNobodySendsOne) {
  CostFit fit;
  Teach(kCosts, [&](const StepWork& step, double seconds) { fit.Add(step.all, seconds); });
  for (int i = 0; i < 20'000; ++i)
    fit.Add(Step(1 + i % 8, 300).all, Seconds(Step(1 + i % 8, 300).all));
  const Work prompt = Step(0, 0, 0, 400).all;
  EXPECT_NEAR(fit.SecondsOf(prompt).seconds / Seconds(prompt), 1, 0.05);
}

}  // namespace
}  // namespace winnow
