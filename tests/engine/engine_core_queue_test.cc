#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <vector>

#include "engine/engine_core.h"
#include "tests/engine/core_requests.h"
#include "tests/engine/fakes.h"

namespace winnow {
namespace {

using ::testing::ElementsAre;

TEST(EngineCoreTest, YoungerRequestsDoNotOvertakeTheHeadOfTheQueue) {
  CoreBench bench(Options(8));
  RecordingSink running;
  RecordingSink head;
  RecordingSink young;
  bench.Submit(Greedy(1, Prompt(12), 8), running);
  bench.Step();
  bench.Submit(Greedy(2, Prompt(28), 2), head);  // has to wait for the first one's blocks
  bench.Submit(Greedy(3, Prompt(1), 1), young);  // would fit at once
  while (!head.summary) ASSERT_TRUE(bench.Step());
  EXPECT_TRUE(running.summary.has_value());
  EXPECT_LE(head.summary->queue_seconds, young.summary ? young.summary->queue_seconds : 1e9);
  bench.RunToEnd();
}

TEST(EngineCoreTest, LowerPriorityValuesComeFirst) {
  EngineOptions options = Options();
  options.max_running_sequences = 1;
  CoreBench bench(options);
  std::vector<RecordingSink> sinks(4);
  const int priorities[] = {0, 2, 1, -1};
  for (uint64_t id = 0; id < 4; ++id) {
    Request request = Greedy(id, Prompt(4), 3);
    request.priority = priorities[id];
    bench.Submit(request, sinks[id]);
  }
  bench.RunToEnd();
  const auto began = [&](int i) { return sinks[static_cast<size_t>(i)].summary->queue_seconds; };
  EXPECT_LT(began(3), began(0));
  EXPECT_LT(began(0), began(2));
  EXPECT_LT(began(2), began(1));
}

TEST(EngineCoreTest, ALowerPriorityGivesItsBlocksAndSlotToAHigherOne) {
  EngineOptions options = Options(10);
  options.max_running_sequences = 2;
  CoreBench bench(options);
  std::vector<RecordingSink> sinks(3);
  std::vector<Request> requests;
  for (uint64_t id = 0; id < 3; ++id) {
    requests.push_back(Sampled(id, Prompt(8, static_cast<int>(id)), 12));
    requests.back().priority = id == 2 ? 0 : 1;
    bench.Submit(requests[id], sinks[id]);
    bench.Step();
    bench.Step();
  }
  EXPECT_EQ(sinks[2].continuations[0].tokens.size(), 2u) << "it did not wait";
  bench.RunToEnd();
  for (size_t i = 0; i < 3; ++i) ExpectAsReference(bench, requests[i], sinks[i]);
  EXPECT_EQ(sinks[0].summary->preemptions, 0) << "the youngest of the priority gives way";
  EXPECT_EQ(sinks[1].summary->preemptions, 1);
}

TEST(EngineCoreTest, AFloodOfHighPriorityDoesNotStarveTheOthers) {
  EngineOptions options = Options();
  options.max_running_sequences = 1;
  CoreBench bench(options);
  std::vector<RecordingSink> low(2);
  std::vector<std::unique_ptr<RecordingSink>> high;
  for (uint64_t id = 0; id < 2; ++id) {
    Request request = Greedy(id, Prompt(4), 30);
    request.priority = 1 + static_cast<int>(id);
    bench.Submit(request, low[id]);
  }
  for (uint64_t id = 10; id < 60; ++id) {
    high.push_back(std::make_unique<RecordingSink>());
    bench.Submit(Greedy(id, Prompt(4), 3), *high.back());
  }
  while (!low[0].summary || !low[1].summary) ASSERT_TRUE(bench.Step());
  const auto over =
      std::ranges::count_if(high, [](const auto& s) { return s->summary.has_value(); });
  EXPECT_GE(over, 2 * WaitingQueue::kPromotionInterval - 2);
  EXPECT_LT(over, 2 * WaitingQueue::kPromotionInterval + 4);
  bench.RunToEnd();
}

TEST(EngineCoreTest, ClientsTakeTurnsByTheServiceTheyGot) {
  EngineOptions options = Options();
  options.max_running_sequences = 1;
  CoreBench bench(options);
  struct Case {
    const char* client;
    int tokens;
    RecordingSink sink{};
  };
  std::vector<Case> cases;
  for (int i = 0; i < 4; ++i) cases.push_back({.client = "long", .tokens = 20});
  for (int i = 0; i < 8; ++i) cases.push_back({.client = "short", .tokens = 4});
  for (size_t i = 0; i < cases.size(); ++i) {
    Request request = Greedy(i, Prompt(4), cases[i].tokens);
    request.client = cases[i].client;
    bench.Submit(request, cases[i].sink);
  }
  bench.RunToEnd();
  std::vector<size_t> order(cases.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::sort(order, {}, [&](size_t i) { return cases[i].sink.summary->queue_seconds; });
  // One long request has 4 + 2 * 19 of service, a short one 4 + 2 * 3.
  EXPECT_THAT(order, ElementsAre(0, 4, 5, 6, 7, 8, 1, 9, 10, 11, 2, 3));
}

TEST(EngineCoreTest, AnOverfullQueueDropsTheLastOfTheLongestLane) {
  EngineOptions options = Options();
  options.max_running_sequences = 1;
  options.max_waiting_requests = 3;
  CoreBench bench(options);
  std::vector<RecordingSink> sinks(6);
  const char* clients[] = {"a", "a", "a", "a", "b", "b"};
  for (uint64_t id = 0; id < 6; ++id) {
    Request request = Greedy(id, Prompt(4), 20);
    request.client = clients[id];
    bench.Submit(request, sinks[id]);
    bench.Step();
  }
  EXPECT_EQ(DetailsOf(sinks[3].summary->status)->reason, ShedReason::kDisplaced);
  EXPECT_FALSE(sinks[1].summary.has_value());
  EXPECT_EQ(DetailsOf(sinks[5].summary->status)->reason, ShedReason::kDisplaced) << "two and two";
  bench.RunToEnd();
  for (const size_t id : {0, 1, 2, 4}) EXPECT_TRUE(sinks[id].summary->status.ok()) << id;
}

TEST(EngineCoreTest, CancelFreesBlocksAtOnceAndLeavesOthersAlone) {
  CoreBench bench(Options());
  RecordingSink first(2);
  RecordingSink second;
  bench.Submit(Sampled(1, Prompt(10), 50, 2), first);
  const Request kept = Greedy(2, Prompt(6), 20);
  bench.Submit(kept, second);
  for (int i = 0; i < 4; ++i) bench.Step();
  bench.core.Cancel(1);
  EXPECT_EQ(first.summary->status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(first.continuations[1].finish_reason, FinishReason::kCancelled);
  EXPECT_LE(bench.core.store().used_blocks(), bench.core.store().pool().BlocksFor(6 + 4));
  bench.core.Cancel(1);
  bench.core.Cancel(77);
  bench.RunToEnd();
  ExpectAsReference(bench, kept, second);
}

TEST(EngineCoreTest, DeadlineEndsRunningAndQueuedRequests) {
  CoreBench bench(Options(4));
  RecordingSink running;
  RecordingSink queued;
  Request first = Greedy(1, Prompt(6), 10);
  first.deadline = bench.now + absl::Seconds(3);
  Request second = Greedy(2, Prompt(10), 6);
  second.deadline = bench.now + absl::Seconds(2);
  bench.Submit(first, running);
  bench.Submit(second, queued);
  EXPECT_EQ(bench.core.NextDeadline(), second.deadline);
  bench.RunToEnd();
  EXPECT_EQ(running.summary->status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(queued.summary->status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(running.continuations[0].tokens.size(), 3u);
  EXPECT_EQ(queued.continuations[0].tokens.size(), 0u);
}

TEST(EngineCoreTest, SlowReaderStopsOnlyItself) {
  CoreBench bench(Options(10));
  RecordingSink slow;
  const Request slow_request = Sampled(1, Prompt(10), 24);
  bench.Submit(slow_request, slow);
  for (int i = 0; i < 5; ++i) bench.Step();
  slow.has_room = false;
  const size_t before = slow.continuations[0].tokens.size();
  // The others need every block of the pool in turn.
  for (uint64_t id = 2; id < 6; ++id) {
    RecordingSink sink;
    const Request request = Sampled(id, Prompt(20), 20);
    bench.Submit(request, sink);
    bench.RunToEnd();
    ExpectAsReference(bench, request, sink);
  }
  EXPECT_EQ(slow.continuations[0].tokens.size(), before);
  EXPECT_FALSE(slow.summary.has_value());
  EXPECT_FALSE(bench.Step());
  slow.has_room = true;
  bench.RunToEnd();
  ExpectAsReference(bench, slow_request, slow);
  EXPECT_GT(slow.summary->preemptions, 0);
}

TEST(EngineCoreTest, PausedSequenceKeepsItsBlocksWhileNobodyNeedsThem) {
  CoreBench bench(Options());
  RecordingSink slow;
  RecordingSink other;
  bench.Submit(Greedy(1, Prompt(10), 24), slow);
  bench.Step();
  slow.has_room = false;
  bench.Submit(Greedy(2, Prompt(10), 24), other);
  bench.RunToEnd();
  slow.has_room = true;
  bench.RunToEnd();
  EXPECT_EQ(slow.summary->preemptions, 0);
}

TEST(EngineCoreTest, SlowReadersDoNotTakeTheSlotsOfOthers) {
  EngineOptions options = Options();
  options.max_running_sequences = 2;
  CoreBench bench(options);
  std::vector<RecordingSink> slow(2);
  for (uint64_t id = 0; id < 2; ++id) bench.Submit(Greedy(id, Prompt(4), 9), slow[id]);
  bench.Step();
  for (RecordingSink& sink : slow) sink.has_room = false;
  RecordingSink other(2);
  const Request request = Sampled(5, Prompt(4), 9, 2);
  bench.Submit(request, other);
  bench.RunToEnd();
  ExpectAsReference(bench, request, other);
  for (RecordingSink& sink : slow) sink.has_room = true;
  bench.RunToEnd();
  for (const RecordingSink& sink : slow) EXPECT_TRUE(sink.summary->status.ok());
}

}  // namespace
}  // namespace winnow
