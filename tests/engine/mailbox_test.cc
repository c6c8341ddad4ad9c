#include "engine/mailbox.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "engine/request/refusal.h"
#include "tests/engine/fakes.h"
#include "tests/engine/scheduling/known_costs.h"

namespace winnow {
namespace {

using ::testing::ElementsAre;

const absl::Time kNow = absl::UnixEpoch();

EngineOptions Options() {
  EngineOptions options;
  options.max_context = 1000;
  options.max_waiting_requests = 3;
  options.max_waiting_tokens = 100;
  return options;
}

Request MakeRequest(uint64_t id, int prompt = 10) {
  Request request;
  request.id = id;
  request.prompt_tokens.assign(static_cast<size_t>(prompt), 1);
  request.max_tokens = 10;
  request.ignore_eos = true;
  return request;
}

class MailboxTest : public testing::Test {
 protected:
  absl::Status Submit(Request request) { return mailbox_.Submit(std::move(request), &sink_, kNow); }
  Messages Collect() { return mailbox_.Collect(absl::InfinitePast()); }
  static std::string Reason(const absl::Status& status) {
    const auto details = DetailsOf(status);
    return details.has_value() ? std::string(ShedReasonName(details->reason)) : "";
  }
  /// What the engine would publish: it has all these requests, and they wait.
  static EngineLoad WithWaiting(const std::vector<Request>& requests) {
    EngineLoad engine(Options());
    for (const Request& request : requests) {
      engine.waiting.Add(request, engine.forecast.LoadOf(request, 0));
    }
    return engine;
  }
  /// A step takes 0.1 s and 50 ms for each sequence, a prompt token 10 ms; something runs.
  static EngineLoad Running() {
    EngineLoad engine(Options());
    Teach({.steps = 0.1, .prompt_tokens = 0.01, .decode_tokens = 0.05},
          [&](const StepWork& step, double seconds) { engine.forecast.NoteStep(step, seconds); });
    engine.running.Add(0, "", {.sequences = 1, .decode_tokens = 10});
    return engine;
  }

  Mailbox mailbox_{Options()};
  RecordingSink sink_;
};

TEST_F(MailboxTest, HandsOverWhatWasPostedInItsOrderAndOnce) {
  ASSERT_TRUE(Submit(MakeRequest(1)).ok());
  mailbox_.Cancel(1);
  ASSERT_TRUE(Submit(MakeRequest(2)).ok());
  mailbox_.Cancel(2);
  mailbox_.Wake();
  const Messages messages = Collect();
  ASSERT_EQ(messages.submissions.size(), 2u);
  EXPECT_EQ(messages.submissions[0].request.id, 1u);
  EXPECT_EQ(messages.submissions[1].request.id, 2u);
  EXPECT_EQ(messages.submissions[0].sink, &sink_);
  EXPECT_EQ(messages.submissions[0].submitted, kNow);
  // A cancellation never comes before the submission that it is about.
  EXPECT_THAT(messages.cancellations, ElementsAre(1u, 2u));
  EXPECT_TRUE(messages.wake);
  EXPECT_FALSE(messages.stop);
  EXPECT_FALSE(messages.drain_until.has_value());

  const Messages none = Collect();
  EXPECT_TRUE(none.submissions.empty());
  EXPECT_TRUE(none.cancellations.empty());
  EXPECT_FALSE(none.wake);
}

TEST_F(MailboxTest, BoundsSubmissionsThatNobodyHasCollected) {
  for (uint64_t id = 0; id < 3; ++id) EXPECT_TRUE(Submit(MakeRequest(id)).ok());
  EXPECT_EQ(Reason(Submit(MakeRequest(3))), "queue_requests");
  EXPECT_EQ(Collect().submissions.size(), 3u);
}

TEST_F(MailboxTest, BoundsPromptTokens) {
  EXPECT_TRUE(Submit(MakeRequest(1, 60)).ok());
  EXPECT_TRUE(Submit(MakeRequest(2, 40)).ok());
  EXPECT_EQ(Reason(Submit(MakeRequest(3, 1))), "queue_tokens");
}

TEST_F(MailboxTest, CollectedSubmissionsCountUntilTheEngineHasPublished) {
  for (uint64_t id = 0; id < 3; ++id) EXPECT_TRUE(Submit(MakeRequest(id)).ok());
  Collect();
  EXPECT_EQ(Reason(Submit(MakeRequest(3))), "queue_requests");
  mailbox_.Publish(WithWaiting({MakeRequest(0)}));  // two were started
  EXPECT_TRUE(Submit(MakeRequest(4)).ok());
  EXPECT_TRUE(Submit(MakeRequest(5)).ok());
  EXPECT_EQ(Reason(Submit(MakeRequest(6))), "queue_requests");
}

TEST_F(MailboxTest, WhatIsPublishedLeavesOutWhatWasNotCollected) {
  EXPECT_TRUE(Submit(MakeRequest(1)).ok());
  Collect();
  EXPECT_TRUE(Submit(MakeRequest(2)).ok());  // while the engine computes a step
  mailbox_.Publish(WithWaiting({MakeRequest(1)}));
  EXPECT_TRUE(Submit(MakeRequest(3)).ok());
  EXPECT_EQ(Reason(Submit(MakeRequest(4))), "queue_requests");
}

TEST_F(MailboxTest, AnOutlineIsAnsweredAsItsRequestAtBestAndTakesNoPlace) {
  mailbox_.Publish(Running());
  Request request = MakeRequest(1, 90);
  request.deadline = kNow + absl::Seconds(0.5);
  Request outline = request;
  outline.prompt_tokens.clear();
  EXPECT_EQ(Reason(mailbox_.CheckOutline(outline, kNow)), "deadline");
  request.deadline = outline.deadline = kNow + absl::Seconds(10);
  for (int i = 0; i < 10; ++i) EXPECT_TRUE(mailbox_.CheckOutline(outline, kNow).ok());
  EXPECT_TRUE(Submit(request).ok());
}

TEST_F(MailboxTest, NoPromptIsChargedToItsRequestButToThoseBehindIt) {
  mailbox_.Publish(Running());
  Request request = MakeRequest(1, 90);  // 0.9 s, of which the prefix cache may have all
  request.max_tokens = 1;
  request.deadline = kNow + absl::Seconds(0.8);
  EXPECT_TRUE(Submit(request).ok());
  request.id = 2;
  request.prompt_tokens.resize(1);
  EXPECT_EQ(Reason(Submit(request)), "deadline");
}

TEST_F(MailboxTest, PublishingKeepsWhatHasCome) {
  mailbox_.Publish(Running());
  Request average = MakeRequest(1);
  average.max_tokens = 60;
  average.deadline = kNow + absl::Seconds(15);  // in time, but not with half to spare
  EXPECT_EQ(Reason(Submit(average)), "deadline");
  mailbox_.Publish(Running());
  Request brief = MakeRequest(2);
  brief.max_tokens = 1;
  brief.deadline = average.deadline;
  EXPECT_EQ(Reason(Submit(brief)), "deadline") << "the average one would be late";
}

TEST_F(MailboxTest, PublishingTellsWhatWaitsHereAndInTheEngine) {
  EXPECT_TRUE(Submit(MakeRequest(1)).ok());
  Collect();
  EXPECT_TRUE(Submit(MakeRequest(2, 20)).ok());  // while the engine computes a step
  const Load waiting = mailbox_.Publish(WithWaiting({MakeRequest(1)}));
  EXPECT_EQ(waiting.requests, 2);
  EXPECT_EQ(waiting.prompt_tokens, 30);
}

TEST_F(MailboxTest, DrainRefusesWhatComesLaterAndLosesNothing) {
  EXPECT_TRUE(Submit(MakeRequest(1)).ok());
  mailbox_.Drain(kNow + absl::Seconds(5));
  EXPECT_EQ(Submit(MakeRequest(2)).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(mailbox_.CheckOutline(MakeRequest(2), kNow).code(), absl::StatusCode::kUnavailable);
  mailbox_.Cancel(1);
  const Messages messages = Collect();
  EXPECT_EQ(messages.submissions.size(), 1u);
  EXPECT_EQ(messages.drain_until, kNow + absl::Seconds(5));
  EXPECT_THAT(messages.cancellations, ElementsAre(1u));
}

TEST_F(MailboxTest, StopRefusesWhatComesLater) {
  mailbox_.Stop();
  EXPECT_EQ(Submit(MakeRequest(1)).code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(Collect().stop);
}

TEST_F(MailboxTest, CollectWaitsForAnyMessage) {
  const auto posts = {
      +[](Mailbox& mailbox) { mailbox.Wake(); }, +[](Mailbox& mailbox) { mailbox.Cancel(7); },
      +[](Mailbox& mailbox) {
        RecordingSink sink;
        EXPECT_TRUE(mailbox.Submit(MakeRequest(1), &sink, kNow).ok());
      },
      +[](Mailbox& mailbox) { mailbox.Drain(kNow); }, +[](Mailbox& mailbox) { mailbox.Stop(); }};
  for (const auto post : posts) {
    Mailbox mailbox(Options());
    std::thread engine([&] { mailbox.Collect(absl::InfiniteFuture()); });
    post(mailbox);
    engine.join();  // or the test never ends
  }
}

TEST_F(MailboxTest, ManyThreadsPostNothingIsLostAndTheBoundHolds) {
  constexpr int kThreads = 4;
  constexpr uint64_t kEach = 200;
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([this, t] {
      for (uint64_t i = 0; i < kEach; ++i) {
        // Refused until the engine has taken some of what waits.
        while (!Submit(MakeRequest(t * kEach + i)).ok()) std::this_thread::yield();
      }
    });
  }
  std::vector<bool> seen(kThreads * kEach, false);
  for (size_t count = 0; count < seen.size();) {
    const Messages messages = mailbox_.Collect(absl::InfiniteFuture());
    EXPECT_LE(messages.submissions.size(), 3u);
    for (const Submission& submission : messages.submissions) {
      EXPECT_FALSE(seen[submission.request.id]);
      seen[submission.request.id] = true;
      ++count;
    }
    mailbox_.Publish(EngineLoad(Options()));  // all were started
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace winnow
