#include "engine/scheduling/forecast.h"

#include <gtest/gtest.h>

#include <deque>
#include <set>
#include <string>

#include "engine/scheduling/engine_load.h"
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

/// A prompt token takes 1 ms; a step 100 ms, and 10 ms for each sequence. Prompts have taken next
/// to none of the time.
class ForecastTest : public testing::Test {
 protected:
  ForecastTest() {
    forecast_.mutable_costs().NoteStep({{0, 100}}, 0, 0.1);
    for (int i = 0; i < 3000; ++i) {
      forecast_.mutable_costs().NoteStep({}, 1 + i % 10, StepSeconds(1 + i % 10));
    }
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
  bool Overdue(const Sequence& sequence) const {
    return forecast_.Overdue(sequence, running_, kNow);
  }

  LetterTokenizer tokenizer_{16};
  std::deque<Request> requests_;
  std::deque<Sequence> sequences_;
  std::set<Sequence*, ComesBefore> running_;
  Forecast forecast_{Options()};
};

TEST_F(ForecastTest, EndIsTheWaitThePromptAndTheTokens) {
  EXPECT_NEAR(forecast_.EndSeconds({3, 0.5}, 2000, 10), 3 + 2 + 5, 0.01);
  const Forecast::Pace pace = forecast_.PaceOf(700, 4);
  EXPECT_NEAR(pace.wait_seconds, 0.7, 1e-6);
  EXPECT_NEAR(pace.step_seconds, StepSeconds(4), 0.01);
}

TEST_F(ForecastTest, LoadIsWhatARequestAndARunningSequenceAskFor) {
  Request request;
  request.prompt_tokens.assign(100, 1);
  request.max_tokens = 50;
  request.n = 3;
  request.ignore_eos = true;
  EXPECT_EQ(forecast_.LoadOf(request).sequences, 3);
  EXPECT_EQ(forecast_.LoadOf(request).prompt_tokens, 100);
  EXPECT_EQ(forecast_.LoadOf(request).decode_tokens, 150);

  Sequence& prompt = MakeSequence(100, 50);
  Sequence* forks[] = {&prompt, &prompt};
  prompt.set_forks({forks[0], forks[1]});
  prompt.set_computed(40);
  EXPECT_EQ(forecast_.LoadOf(prompt).requests, 0);
  EXPECT_EQ(forecast_.LoadOf(prompt).sequences, 3);
  EXPECT_EQ(forecast_.LoadOf(prompt).prompt_tokens, 60);
  EXPECT_EQ(forecast_.LoadOf(prompt).decode_tokens, 150);
  EXPECT_EQ(forecast_.LoadOf(Run(50)).prompt_tokens, 0);
  EXPECT_EQ(forecast_.LoadOf(Run(50)).decode_tokens, 51);
}

TEST_F(ForecastTest, AtLeastATokenRemains) {
  EXPECT_EQ(forecast_.RemainingTokens(Run(7)), 7);
  Sequence& beyond = Run(7);
  requests_.back().ignore_eos = false;
  for (int i = 0; i < 500; ++i) forecast_.mutable_costs().NoteEnd(requests_.back(), 1, 100);
  EXPECT_EQ(forecast_.RemainingTokens(beyond), 1);
}

TEST_F(ForecastTest, ARequestWaitsForThePromptsBesideItOrForTurns) {
  RunningLoad running;
  running.levels[0] = {0, 2, 300, 100};
  const Load ahead = {1, 1, 500, 50};
  EXPECT_NEAR(forecast_.PaceAfter(ahead, running, 0).wait_seconds, 0.3 + 0.5, 0.01);
  EXPECT_NEAR(forecast_.PaceAfter(ahead, running, 0).step_seconds, StepSeconds(4), 0.01);

  running.blocked_priority = 0;  // no slot is free, whatever it looks like
  const double mean_tokens = (100 + 50) / 3.0;
  EXPECT_NEAR(forecast_.PaceAfter(ahead, running, 0).wait_seconds,
              0.3 + 2 * mean_tokens * StepSeconds(2) / 2, 0.3);
  EXPECT_NEAR(forecast_.PaceAfter({}, running, -1).wait_seconds, 0, 1e-9) << "others give way";
}

TEST_F(ForecastTest, EstimatedWaitIsThatOfTheClientsNextRequest) {
  EngineLoad engine(Options());
  engine.forecast = forecast_;
  engine.running.levels[0] = {0, 4, 0, 400};
  Request request;
  request.client = "busy";
  engine.waiting.Add(request, {3, 3, 0, 300});
  const double turn = 100 * StepSeconds(4) / 4;
  EXPECT_NEAR(absl::ToDoubleSeconds(engine.EstimatedWait(0, "new")), turn, 0.3);
  EXPECT_NEAR(absl::ToDoubleSeconds(engine.EstimatedWait(0, "busy")), 4 * turn, 1);
}

TEST_F(ForecastTest, OverdueIsWhatWouldBeLateThoughItWereStartedNow) {
  EXPECT_FALSE(Overdue(MakeSequence(100, 10, 0.1))) << "nothing else is there to do";
  Run(50);
  EXPECT_TRUE(Overdue(MakeSequence(1000, 10, 1 + 10 * 0.12 - 0.1)));
  EXPECT_FALSE(Overdue(MakeSequence(1000, 10, 1 + 10 * 0.12 + 0.1)));
  EXPECT_FALSE(Overdue(MakeSequence(1000, 10)));
  EXPECT_FALSE(Overdue(MakeSequence(1000, 10, 1, /*priority=*/-1))) << "what runs gives way";
  EXPECT_FALSE(Forecast(Options()).Overdue(MakeSequence(1000, 10, 1), running_, kNow));
}

TEST_F(ForecastTest, WhatIsKnownOfAPromptCostsNothing) {
  Run(50);
  Sequence& sequence = MakeSequence(1000, 10, 2);
  EXPECT_TRUE(Overdue(sequence));
  EXPECT_FALSE(MayStart(sequence));
  sequence.set_computed(900);
  EXPECT_FALSE(Overdue(sequence));
  EXPECT_TRUE(MayStart(sequence));
}

TEST_F(ForecastTest, StartsWhatEndsInTimeBesideWhatRuns) {
  EXPECT_TRUE(MayStart(MakeSequence(100, 10, 0.01))) << "nothing else is there to do";
  Run(50);
  Run(50);
  EXPECT_TRUE(MayStart(MakeSequence(1000, 10, 1 + 10 * 0.13 + 0.1)));
  Sequence& late = MakeSequence(1000, 10, 1 + 10 * 0.13 - 0.1);
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
