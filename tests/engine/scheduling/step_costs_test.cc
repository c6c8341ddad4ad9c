#include "engine/scheduling/step_costs.h"

#include <gtest/gtest.h>

#include "tests/engine/scheduling/known_costs.h"

namespace winnow {
namespace {

constexpr KnownCosts kCosts = {.steps = 0.01, .prompt_tokens = 0.005, .decode_tokens = 0.002};

TEST(StepCostsTest, LearnsWhatWorkTakes) {
  StepCosts costs;
  Teach(kCosts, [&](const StepWork& step, double seconds) { costs.NoteStep(step, seconds); });
  const Work work = Step(20, 100, 0, 300).all;
  EXPECT_NEAR(costs.SecondsOf(work).seconds, SecondsOf(work, kCosts), 0.05);
  EXPECT_NEAR(costs.LoadFactor(0), 1, 0.01) << "no prompts of late";
}

TEST(StepCostsTest, PromptsTakeTheirShareOfTheTimeFromThoseThatDecode) {
  StepCosts costs;
  Teach(kCosts, [&](const StepWork& step, double seconds) { costs.NoteStep(step, seconds); });
  for (int i = 0; i < 1000; ++i) {
    // 30 ms of decoding, 60 ms of prompts of the middle priority, 90 ms of the lowest one's.
    StepWork step = Step(10, 100, 0, 12, /*priority=*/1);
    step.prompts[2] = {.prompt_tokens = 18, .prompt_context = ContextOf(0, 18)};
    step.all += step.prompts[2];
    costs.NoteStep(step, SecondsOf(step.all, kCosts));
  }
  EXPECT_NEAR(costs.LoadFactor(0), 1, 0.01);
  EXPECT_NEAR(costs.LoadFactor(1), 3, 0.1);
  EXPECT_NEAR(costs.LoadFactor(2), 6, 0.3);
}

TEST(StepCostsTest, AFirstPromptDoesNotSayThatMoreWillCome) {
  StepCosts costs;
  const StepWork prompt = Step(0, 0, 0, 500);
  costs.NoteStep(prompt, SecondsOf(prompt.all, kCosts));
  EXPECT_LT(costs.LoadFactor(0), 2);
}

}  // namespace
}  // namespace winnow
