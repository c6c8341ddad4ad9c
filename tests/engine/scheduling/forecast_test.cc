#include "engine/scheduling/forecast.h"

#include <gtest/gtest.h>

#include <deque>
#include <set>
#include <string>

#include "engine/scheduling/engine_load.h"
#include "tests/engine/scheduling/known_costs.h"
#include "tests/engine/scheduling/sequences.h"

namespace winnow {
namespace {

const absl::Time kNow = absl::UnixEpoch();

EngineOptions Options() {
  EngineOptions options;
  options.max_context = 10'000;
  options.max_running_sequences = 4;
  return options;
}

/// A prompt token takes 1 ms; a step 100 ms, and 10 ms for each sequence.
constexpr KnownCosts kCosts = {.steps = 0.1, .prompt_tokens = 0.001, .decode_tokens = 0.01};

class ForecastTest : public testing::Test {
 protected:
  ForecastTest() {
    Teach(kCosts, [&](const StepWork& step, double seconds) { forecast_.NoteStep(step, seconds); });
  }
  static double StepSeconds(double sequences) { return 0.1 + 0.01 * sequences; }

  /// A sequence that waits; with a deadline `seconds` from now if that is positive.
  Sequence& MakeSequence(int prompt, int tokens, double seconds = 0, int priority = 0) {
    Request& request = requests_.emplace_back();
    request.prompt_tokens.assign(static_cast<size_t>(prompt), 1);
    request.max_tokens = tokens;
    request.ignore_eos = true;
    request.priority = priority;
    if (seconds > 0) request.deadline = kNow + absl::Seconds(seconds);
    Sequence& sequence =
        sequences_.emplace_back(request, tokenizer_, static_cast<int64_t>(sequences_.size()), 0, 1,
                                prompt + tokens, RecallOptions{});
    sequence.SetPast();
    return sequence;
  }
  /// One that runs, and has generated a token.
  Sequence& Run(int tokens, double seconds = 0, int priority = 0) {
    Sequence& sequence = MakeSequence(1, tokens + 1, seconds, priority);
    BeginToDecode(sequence);
    running_.insert(&sequence);
    return sequence;
  }
  bool MayStart(const Sequence& sequence, bool alone = false) const {
    return forecast_.MayStart(sequence, running_, alone, kNow);
  }
  bool Overdue(const Sequence& sequence, int known = 0) const {
    const Load running = forecast_.LoadDownTo(sequence.priority(), running_);
    return forecast_.Overdue(sequence, known, running, kNow);
  }

  LetterTokenizer tokenizer_{16};
  std::deque<Request> requests_;
  std::deque<Sequence> sequences_;
  std::set<Sequence*, ComesBefore> running_;
  Forecast forecast_{Options()};
};

TEST_F(ForecastTest, EndIsTheWaitThePromptAndTheTokens) {
  Load running = forecast_.LoadOf(Run(50)) + forecast_.LoadOf(Run(50));
  running.prompts = {.prompt_tokens = 700};
  const Forecast::Pace pace = Forecast::PaceOf(running);
  EXPECT_NEAR(forecast_.WaitOf(pace).seconds, 0.7, 0.02);
  EXPECT_NEAR(forecast_.EndOf(pace, {.prompt_tokens = 2000}, 10).seconds,
              0.7 + 2 + 10 * StepSeconds(2), 0.1);
}

TEST_F(ForecastTest, LoadIsWhatARequestAndARunningSequenceAskFor) {
  Request request;
  request.prompt_tokens.assign(100, 1);
  request.max_tokens = 50;
  request.n = 3;
  request.ignore_eos = true;
  EXPECT_EQ(forecast_.LoadOf(request, 30).sequences, 3);
  EXPECT_EQ(forecast_.LoadOf(request, 30).prompt_tokens, 100);
  EXPECT_EQ(forecast_.LoadOf(request, 30).prompts.prompt_tokens, 70);
  EXPECT_EQ(forecast_.LoadOf(request, 30).decode_tokens, 150);

  Sequence& prompt = MakeSequence(100, 50);
  Sequence* forks[] = {&prompt, &prompt};
  prompt.set_forks({forks[0], forks[1]});
  prompt.set_computed(40);
  EXPECT_EQ(forecast_.LoadOf(prompt).requests, 0);
  EXPECT_EQ(forecast_.LoadOf(prompt).sequences, 3);
  EXPECT_EQ(forecast_.LoadOf(prompt).prompts.prompt_tokens, 60);
  EXPECT_EQ(forecast_.LoadOf(prompt).prompts.prompt_context, ContextOf(40, 100));
  EXPECT_EQ(forecast_.LoadOf(prompt).decode_tokens, 150);
  EXPECT_EQ(forecast_.LoadOf(Run(50)).prompts.prompt_tokens, 0);
  EXPECT_EQ(forecast_.LoadOf(Run(50)).decode_tokens, 51);
}

TEST_F(ForecastTest, ARequestWaitsForThePromptsBesideItOrForTurns) {
  RunningLoad running;
  running.Add(0, "other",
              {.sequences = 2, .decode_tokens = 100, .prompts = {.prompt_tokens = 300}});
  const Load ahead = {
      .requests = 1, .sequences = 1, .decode_tokens = 50, .prompts = {.prompt_tokens = 500}};
  const auto wait = [&](const Load& before, int priority) {
    const Load own = {.prompts = {.prompt_tokens = 1000}};
    return forecast_.WaitOf(forecast_.PaceAfter(before, running, own, priority, "own")).seconds;
  };
  EXPECT_NEAR(wait(ahead, 0), StepSeconds(4) + 0.3 + 0.5, 0.03);
  EXPECT_NEAR(forecast_.PaceAfter(ahead, running, {}, 0, "own").step.decode_tokens, 4, 0.1);

  running.blocked_priority = 0;  // no slot is free, whatever it looks like
  const double mean_tokens = (100 + 50) / 3.0;
  EXPECT_NEAR(wait(ahead, 0), 0.3 + (1 + 2 * mean_tokens / 2) * StepSeconds(2), 0.3);
  EXPECT_NEAR(wait({}, -1), StepSeconds(1), 0.01) << "others give way";
}

TEST_F(ForecastTest, AShortPromptWaitsForNoLongOneThatRuns) {
  RunningLoad running;
  running.Add(-1, "higher", {.sequences = 1, .prompts = {.prompt_tokens = 500}});
  running.Add(0, "long", {.sequences = 1, .prompts = {.prompt_tokens = 100'000}});
  running.Add(0, "brief", {.sequences = 1, .prompts = {.prompt_tokens = 200}});
  const Load own = {.prompts = {.prompt_tokens = 1000}};
  const Forecast::Pace pace = forecast_.PaceAfter({}, running, own, 0, "own");
  EXPECT_NEAR(forecast_.WaitOf(pace).seconds, StepSeconds(4) + 0.5 + 1 + 0.2, 0.1);

  Sequence& prompt = MakeSequence(9000, 10);
  prompt.set_started();
  running_.insert(&prompt);
  EXPECT_FALSE(MayStart(MakeSequence(1000, 1, 1.9)));
  EXPECT_TRUE(MayStart(MakeSequence(1000, 1, 3.2))) << "1 s each, and a step of both";
}

TEST_F(ForecastTest, EstimatedWaitIsThatOfTheClientsNextRequest) {
  EngineLoad engine(Options());
  engine.forecast = forecast_;
  engine.running.levels[0] = {.sequences = 4, .decode_tokens = 400};
  Request request;
  request.client = "busy";
  engine.waiting.Add(request, {.requests = 3, .sequences = 3, .decode_tokens = 300});
  const double turn = 100 * StepSeconds(4) / 4;
  EXPECT_NEAR(absl::ToDoubleSeconds(engine.EstimatedWait(0, "new")), turn, 0.3);
  EXPECT_NEAR(absl::ToDoubleSeconds(engine.EstimatedWait(0, "busy")), 4 * turn, 1);
  EXPECT_NEAR(absl::ToDoubleSeconds(engine.QueueWait()), 3 * turn, 1);
  EXPECT_EQ(EngineLoad(Options()).QueueWait(), absl::ZeroDuration()) << "nobody waits";
}

TEST_F(ForecastTest, OverdueIsWhatWouldBeLateThoughItWereStartedNow) {
  EXPECT_FALSE(Overdue(MakeSequence(100, 10, 0.1))) << "nothing else is there to do";
  Run(50);
  EXPECT_TRUE(Overdue(MakeSequence(1000, 10, 1.2 + 10 * 0.12 - 0.6)));
  EXPECT_FALSE(Overdue(MakeSequence(1000, 10, 1.2 + 10 * 0.12 + 0.1)));
  EXPECT_FALSE(Overdue(MakeSequence(1000, 10)));
  EXPECT_FALSE(Overdue(MakeSequence(1000, 10, 1, /*priority=*/-1))) << "what runs gives way";
  const Forecast fresh(Options());
  EXPECT_FALSE(fresh.Overdue(MakeSequence(1000, 10, 1), 0, fresh.LoadDownTo(0, running_), kNow));
}

TEST_F(ForecastTest, WhatIsKnownOfAPromptCostsNothing) {
  Run(50);
  Sequence& sequence = MakeSequence(1000, 10, 2);
  EXPECT_TRUE(Overdue(sequence));
  EXPECT_FALSE(Overdue(sequence, /*known=*/900));
  EXPECT_FALSE(MayStart(sequence));
  sequence.set_computed(900);
  EXPECT_TRUE(MayStart(sequence));
}

TEST_F(ForecastTest, StartsWhatEndsInTimeBesideWhatRuns) {
  EXPECT_TRUE(MayStart(MakeSequence(100, 10, 0.01))) << "nothing else is there to do";
  Run(50);
  Run(50);
  EXPECT_TRUE(MayStart(MakeSequence(1000, 10, 1.2 + 10 * 0.13 + 0.1)));
  Sequence& late = MakeSequence(1000, 10, 1.2 + 10 * 0.13 - 0.1);
  EXPECT_FALSE(MayStart(late));
  late.set_started();
  EXPECT_TRUE(MayStart(late)) << "it only goes on";
}

TEST_F(ForecastTest, StartsNothingThatMakesARunningSequenceLate) {
  Run(50, 50 * StepSeconds(1) + 1);
  EXPECT_TRUE(MayStart(MakeSequence(100, 10)));
  EXPECT_FALSE(MayStart(MakeSequence(1000, 10)));
  EXPECT_TRUE(MayStart(MakeSequence(1000, 10, 0, /*priority=*/-1))) << "of a lower priority";
}

TEST_F(ForecastTest, WhatIsLateInAnyCaseHoldsUpNobody) {
  Run(50, 1);
  EXPECT_TRUE(MayStart(MakeSequence(1000, 10)));
}

TEST_F(ForecastTest, WhoClaimsTheEngineHoldsUpNobody) {
  Sequence& outline = Run(50, 50 * StepSeconds(1) + 0.1);
  EXPECT_FALSE(MayStart(MakeSequence(1000, 10)));
  outline.set_claims_all(true);
  EXPECT_TRUE(MayStart(MakeSequence(1000, 10)));

  Request request;
  request.max_tokens = 100;
  request.ignore_eos = true;
  const Load load = forecast_.LoadOf(request, 0);
  EXPECT_TRUE(forecast_.ClaimsAll(load, 100 * StepSeconds(1) * 1.3));
  EXPECT_FALSE(forecast_.ClaimsAll(load, 100 * StepSeconds(1) * 1.7));
  EXPECT_FALSE(Forecast(Options()).ClaimsAll(load, 1)) << "nothing is known";
}

TEST_F(ForecastTest, RestingSequencesDoNotCount) {
  Run(50, 50 * StepSeconds(1) + 0.1).set_paused(true);
  EXPECT_TRUE(MayStart(MakeSequence(1000, 10, 0.1)));
}

TEST_F(ForecastTest, AloneMeansWithoutWhatGivesWay) {
  for (int i = 0; i < 3; ++i) Run(50, 0, /*priority=*/1);
  const Sequence& sequence = MakeSequence(100, 10, 0.1 + 10 * StepSeconds(2), /*priority=*/0);
  EXPECT_FALSE(MayStart(sequence, /*alone=*/false));
  EXPECT_TRUE(MayStart(sequence, /*alone=*/true));
}

}  // namespace
}  // namespace winnow
