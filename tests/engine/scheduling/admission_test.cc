#include "engine/scheduling/admission.h"

#include <gtest/gtest.h>

#include <string>

#include "engine/request/refusal.h"
#include "tests/engine/scheduling/known_costs.h"

namespace winnow {
namespace {

const absl::Time kNow = absl::UnixEpoch();

EngineOptions Options() {
  EngineOptions options;
  options.max_context = 1000;
  options.max_running_sequences = 4;
  options.max_waiting_requests = 4;
  options.max_waiting_tokens = 1000;
  return options;
}

Request MakeRequest(int prompt, int tokens, const std::string& client = "", int priority = 0) {
  Request request;
  request.prompt_tokens.assign(static_cast<size_t>(prompt), 1);
  request.max_tokens = tokens;
  request.ignore_eos = true;
  request.client = client;
  request.priority = priority;
  return request;
}

/// 1000 prompt tokens a second; a step takes 0.1 s, and 0.01 s for each sequence.
constexpr KnownCosts kCosts = {.steps = 0.1, .prompt_tokens = 0.001, .decode_tokens = 0.01};

class AdmissionTest : public testing::Test {
 protected:
  AdmissionTest() {
    Teach(kCosts,
          [&](const StepWork& step, double seconds) { engine_.forecast.NoteStep(step, seconds); });
  }

  Load LoadOf(const Request& request) const { return engine_.forecast.LoadOf(request, 0); }
  void Wait(const Request& request) { engine_.waiting.Add(request, LoadOf(request)); }
  void Run(int sequences, double tokens, int priority = 0) {
    const double n = sequences;
    engine_.running = {};
    engine_.running.Add(priority, "", {.sequences = n, .decode_tokens = n * tokens});
  }
  absl::Status Check(const Request& request) const {
    return admission_.Check(request, engine_, offers_, kNow);
  }
  std::string Reason(const Request& request) {
    const absl::Status status = Check(request);
    if (status.ok()) return "";
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
    const auto details = DetailsOf(status);
    EXPECT_GT(details->retry_after, absl::ZeroDuration());
    return std::string(ShedReasonName(details->reason));
  }
  /// The least time to its deadline with which the request may wait.
  double NeededSeconds(Request request) {
    double low = 0, high = 10'000;
    while (high - low > 1e-3) {
      const double middle = (low + high) / 2;
      request.deadline = kNow + absl::Seconds(middle);
      (Check(request).ok() ? high : low) = middle;
    }
    return high;
  }

  const Admission admission_{Options()};
  EngineLoad engine_{Options()};
  Offers offers_;
};

TEST_F(AdmissionTest, RefusesTheNextRequestOfAFullQueue) {
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(Reason(MakeRequest(10, 10)), "");
    Wait(MakeRequest(10, 10));
  }
  EXPECT_EQ(Reason(MakeRequest(10, 10)), "queue_requests");
  engine_.waiting.Remove(MakeRequest(10, 10), LoadOf(MakeRequest(10, 10)));
  EXPECT_EQ(Reason(MakeRequest(10, 10)), "");
}

TEST_F(AdmissionTest, BoundsTheTokensThatWaitButForASingleRequest) {
  EXPECT_EQ(Reason(MakeRequest(2000, 10)), "");
  Wait(MakeRequest(600, 10));
  EXPECT_EQ(Reason(MakeRequest(400, 10)), "");
  EXPECT_EQ(Reason(MakeRequest(401, 10)), "queue_tokens");
}

TEST_F(AdmissionTest, AFullQueueMakesRoomForHigherPriorities) {
  for (int i = 0; i < 4; ++i) Wait(MakeRequest(10, 10, "a", 2));
  EXPECT_EQ(Reason(MakeRequest(10, 10, "a", 3)), "queue_requests");
  EXPECT_EQ(Reason(MakeRequest(10, 10, "a", 2)), "queue_requests");
  EXPECT_EQ(Reason(MakeRequest(10, 10, "a", 1)), "");
}

TEST_F(AdmissionTest, AFullQueueMakesRoomForClientsWithLessInIt) {
  for (int i = 0; i < 3; ++i) Wait(MakeRequest(10, 10, "flood"));
  Wait(MakeRequest(10, 10, "other"));
  EXPECT_EQ(Reason(MakeRequest(10, 10, "flood")), "queue_requests");
  EXPECT_EQ(Reason(MakeRequest(10, 10, "new")), "");
  EXPECT_EQ(Reason(MakeRequest(10, 10, "other")), "");  // two each then
}

TEST_F(AdmissionTest, AnIdleEngineTakesWhatItMayNotFinish) {
  Request request = MakeRequest(500, 400);
  request.deadline = kNow + absl::Seconds(1);
  EXPECT_EQ(Reason(request), "");
  Run(1, 10);
  EXPECT_EQ(Reason(request), "deadline");
  request.deadline = absl::InfiniteFuture();
  EXPECT_EQ(Reason(request), "");
}

TEST_F(AdmissionTest, NeedsTheTimeOfItsTokensBesideTheOthers) {
  Run(2, 50);
  // The step under way and 50 more, of three sequences, with a margin of a tenth.
  EXPECT_NEAR(NeededSeconds(MakeRequest(500, 50)), 1.1 * 51 * 0.13, 0.4);
}

TEST_F(AdmissionTest, APromptCostsWhatIsStillToComputeOfIt) {
  Run(2, 50);
  Request request = MakeRequest(900, 10);
  request.deadline = kNow + absl::Seconds(2);
  EXPECT_EQ(Reason(request), "") << "perhaps all is known";
  const auto with_known = [&](int known) {
    return Admission::CheckDeadline(request, engine_.forecast.LoadOf(request, known), engine_,
                                    kNow);
  };
  EXPECT_TRUE(with_known(800).ok());
  EXPECT_EQ(DetailsOf(with_known(0))->reason, ShedReason::kDeadline);
}

TEST_F(AdmissionTest, RefusesNobodyByWhatItDoesNotKnow) {
  engine_.forecast = Forecast(Options());
  Run(4, 900);
  Request request = MakeRequest(900, 90);
  request.deadline = kNow + absl::Milliseconds(1);
  EXPECT_EQ(Reason(request), "");
}

TEST_F(AdmissionTest, WithoutAFreeSlotWaitsForTurns) {
  Run(4, 80);
  Wait(MakeRequest(0, 80));
  // Two turns: one of four sequences ends after 80 tokens, that is once in 80 / 4 steps.
  EXPECT_NEAR(NeededSeconds(MakeRequest(0, 10)), 1.1 * (1 + 2 * 20 + 10) * 0.14, 0.5);
}

TEST_F(AdmissionTest, OnlyAFairShareOfAFloodIsBeforeAnotherClient) {
  Run(4, 10);
  for (int i = 0; i < 3; ++i) Wait(MakeRequest(100, 100, "flood"));
  const double of_flood = NeededSeconds(MakeRequest(10, 10, "flood"));
  const double of_other = NeededSeconds(MakeRequest(10, 10, "other"));
  EXPECT_LT(of_other, of_flood / 2);
  EXPECT_LT(NeededSeconds(MakeRequest(10, 10, "flood", -1)), of_other);
}

TEST_F(AdmissionTest, WhatRunsWithLowerPriorityDoesNotCount) {
  Run(4, 80, /*priority=*/1);
  EXPECT_NEAR(NeededSeconds(MakeRequest(0, 10)), 1.1 * 11 * 0.11, 0.1);
  EXPECT_GT(NeededSeconds(MakeRequest(0, 10, "", 1)), 3);
}

TEST_F(AdmissionTest, ShortRequestsAreRefusedWhenTheirClientsAverageOneWouldBeLate) {
  Run(2, 50);
  const auto within_30_s = [](Request request) {
    request.deadline = kNow + absl::Seconds(30);
    return request;
  };
  for (int i = 0; i < 100; ++i) {
    offers_.Note(within_30_s(MakeRequest(500, 140, "long")), engine_.forecast, kNow);
  }
  EXPECT_EQ(Reason(within_30_s(MakeRequest(10, 5, "long"))), "");
  Run(4, 50);
  EXPECT_EQ(Reason(within_30_s(MakeRequest(10, 5, "long"))), "deadline");
  EXPECT_EQ(Reason(within_30_s(MakeRequest(10, 5, "other"))), "");
  for (int i = 0; i < 1000; ++i) {
    offers_.Note(within_30_s(MakeRequest(10, 5, "long")), engine_.forecast, kNow);
  }
  EXPECT_EQ(Reason(within_30_s(MakeRequest(10, 5, "long"))), "");
}

TEST_F(AdmissionTest, LeavesRoomForClientsThatWereRefusedAndHaveLess) {
  Run(2, 50);
  Request refused = MakeRequest(10, 160, "refused");
  refused.deadline = kNow + absl::Seconds(30);
  Request flood = MakeRequest(10, 10, "flood");
  flood.deadline = kNow + absl::Seconds(30);
  offers_.Note(refused, engine_.forecast, kNow);
  for (int i = 0; i < 2; ++i) Wait(MakeRequest(10, 10, "flood"));
  EXPECT_EQ(Reason(flood), "");
  offers_.NoteRefusal(refused, kNow);
  EXPECT_EQ(Reason(flood), "deadline");
  EXPECT_EQ(Reason(MakeRequest(10, 10, "flood", -1)), "") << "no deadline";
  flood.client = "new";
  EXPECT_EQ(Reason(flood), "") << "has nothing in the engine itself";
  flood.client = "flood";
  flood.priority = -1;
  EXPECT_EQ(Reason(flood), "") << "of a higher priority";
}

TEST_F(AdmissionTest, RetryAfterIsWhatTheDeadlineIsShortOf) {
  Run(2, 50);
  Request request = MakeRequest(500, 50);
  const double needed = NeededSeconds(request);
  request.deadline = kNow + absl::Seconds(needed - 3);
  const auto details = DetailsOf(Check(request));
  EXPECT_NEAR(absl::ToDoubleSeconds(details->retry_after), 3, 0.01);
}

}  // namespace
}  // namespace winnow
