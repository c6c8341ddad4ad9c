#include "engine/engine_core.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "engine/refusal.h"
#include "engine/request_check.h"
#include "engine/waiting_queue.h"
#include "tests/engine/fakes.h"

namespace winnow {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int kVocab = CoreBench::kVocab;

EngineOptions Options(int blocks = 64) {
  return {.block_tokens = 4,
          .kv_blocks = blocks,
          .max_context = 128,
          .max_step_tokens = 16,
          .max_running_sequences = 8,
          .max_waiting_requests = 64,
          .recall = {}};
}

std::vector<int32_t> Prompt(int length, int first = 0) {
  std::vector<int32_t> prompt(static_cast<size_t>(length));
  for (int i = 0; i < length; ++i) prompt[static_cast<size_t>(i)] = (first + i * 7) % kVocab;
  return prompt;
}

Request Greedy(uint64_t id, std::vector<int32_t> prompt, int max_tokens) {
  Request request;
  request.id = id;
  request.prompt_tokens = std::move(prompt);
  request.sampling.temperature = 0;
  request.max_tokens = max_tokens;
  request.ignore_eos = true;
  return request;
}

Request Sampled(uint64_t id, std::vector<int32_t> prompt, int max_tokens, int n = 1) {
  Request request = Greedy(id, std::move(prompt), max_tokens);
  request.sampling.temperature = 1;
  request.sampling.seed = id * 1000;
  request.n = n;
  return request;
}

void ExpectAsReference(const CoreBench& bench, const Request& request, const RecordingSink& sink) {
  for (int i = 0; i < request.n; ++i) {
    const RecordingSink::Continuation expected =
        ReferenceContinuation(request, i, bench.options, bench.model, bench.tokenizer);
    const RecordingSink::Continuation& actual = sink.continuations[static_cast<size_t>(i)];
    EXPECT_EQ(actual.token_ids(), expected.token_ids()) << "request " << request.id << "/" << i;
    EXPECT_EQ(actual.text, expected.text);
    EXPECT_EQ(actual.finish_reason, expected.finish_reason);
    EXPECT_EQ(actual.matched_stop, expected.matched_stop);
  }
}

TEST(EngineCoreTest, GreedyTokensAreThoseOfTheModelOnTheWholeHistory) {
  CoreBench bench(Options());
  RecordingSink sink;
  const Request request = Greedy(1, Prompt(5), 20);
  bench.Submit(request, sink);
  bench.RunToEnd();
  ExpectAsReference(bench, request, sink);
  EXPECT_EQ(sink.continuations[0].finish_reason, FinishReason::kLength);
  ASSERT_TRUE(sink.summary.has_value());
  EXPECT_TRUE(sink.summary->status.ok());
}

TEST(EngineCoreTest, StepsTakeLogitsOnlyForRequestsThatWantTheirProbabilities) {
  CoreBench bench(Options());
  RecordingSink greedy;
  RecordingSink sampled;
  const Request first = Greedy(1, Prompt(5), 20);
  const Request second = Sampled(2, Prompt(9), 5);
  bench.Submit(first, greedy);
  bench.Submit(second, sampled);
  bench.RunToEnd();
  ExpectAsReference(bench, first, greedy);
  ExpectAsReference(bench, second, sampled);
  EXPECT_EQ(bench.model.steps_without_logits(), 20);

  RecordingSink described;
  Request third = Greedy(3, Prompt(5), 4);
  third.logprobs = true;
  bench.Submit(third, described);
  bench.RunToEnd();
  EXPECT_EQ(bench.model.steps_without_logits(), 20);
  EXPECT_TRUE(described.summary->status.ok());
}

TEST(EngineCoreTest, LongPromptIsComputedInChunksOfTheStepBudget) {
  CoreBench bench(Options());
  RecordingSink sink;
  bench.Submit(Greedy(1, Prompt(40), 2), sink);
  bench.RunToEnd();
  std::vector<int> prefill;
  for (const StepStats& step : bench.observer.steps) prefill.push_back(step.prefill_tokens);
  EXPECT_THAT(prefill, ElementsAre(16, 16, 8, 0));
}

TEST(EngineCoreTest, DecodeTokensAndPrefillChunksShareAStep) {
  CoreBench bench(Options());
  RecordingSink first;
  RecordingSink second;
  bench.Submit(Greedy(1, Prompt(3), 10), first);
  bench.Step();
  bench.Submit(Greedy(2, Prompt(40), 10), second);
  bench.Step();
  const StepStats& step = bench.observer.steps.back();
  EXPECT_EQ(step.decode_tokens, 1);
  EXPECT_EQ(step.prefill_tokens, 15);
  EXPECT_EQ(step.sequences, 2);
  bench.RunToEnd();
}

TEST(EngineCoreTest, ReadBytesAreTheContextOfEachDecodeTokenAndPrefillChunk) {
  CoreBench bench(Options());
  RecordingSink sink;
  bench.Submit(Greedy(1, Prompt(20), 3), sink);
  bench.RunToEnd();
  std::vector<int64_t> bytes;
  for (const StepStats& step : bench.observer.steps) bytes.push_back(step.traffic.bytes());
  EXPECT_THAT(bytes, ElementsAre(1600, 2000, 2100, 2200));
}

TEST(EngineCoreTest, ContextLimitEndsWithLength) {
  CoreBench bench(Options());
  RecordingSink sink;
  bench.Submit(Greedy(1, Prompt(120), 1'000'000'000), sink);
  bench.RunToEnd();
  EXPECT_EQ(sink.continuations[0].tokens.size(), 8u);
  EXPECT_EQ(sink.continuations[0].finish_reason, FinishReason::kLength);
}

TEST(EngineCoreTest, EndOfSequenceStopsUnlessIgnored) {
  for (const bool ignore : {false, true}) {
    CoreBench bench(Options());
    RecordingSink sink;
    Request request = Greedy(1, Prompt(5), 10);
    request.ignore_eos = ignore;
    request.sampling.logit_bias = {{kVocab - 1, 100.0f}};
    bench.Submit(request, sink);
    bench.RunToEnd();
    EXPECT_EQ(sink.continuations[0].tokens.size(), ignore ? 10u : 1u);
    EXPECT_EQ(sink.continuations[0].finish_reason,
              ignore ? FinishReason::kLength : FinishReason::kStop);
    EXPECT_EQ(sink.continuations[0].text, "");
    EXPECT_EQ(sink.continuations[0].matched_stop, "");
  }
}

TEST(EngineCoreTest, StopTokenEndsAndIsNotPartOfTheText) {
  CoreBench bench(Options());
  RecordingSink sink;
  Request request = Greedy(1, Prompt(5), 10);
  request.sampling.logit_bias = {{3, 100.0f}};
  request.stop_token_ids = {3};
  bench.Submit(request, sink);
  bench.RunToEnd();
  EXPECT_EQ(sink.continuations[0].finish_reason, FinishReason::kStop);
  EXPECT_EQ(sink.continuations[0].matched_stop, "d");
  EXPECT_EQ(sink.continuations[0].text, "");
}

TEST(EngineCoreTest, StopStringIsCutOffTheText) {
  CoreBench bench(Options());
  const Request whole = Greedy(1, Prompt(5), 12);
  const std::string text =
      ReferenceContinuation(whole, 0, bench.options, bench.model, bench.tokenizer).text;
  RecordingSink sink;
  Request request = whole;
  request.stop = {text.substr(6, 3)};
  bench.Submit(request, sink);
  bench.RunToEnd();
  EXPECT_EQ(sink.continuations[0].text, text.substr(0, text.find(request.stop[0])));
  EXPECT_EQ(sink.continuations[0].finish_reason, FinishReason::kStop);
  EXPECT_EQ(sink.continuations[0].matched_stop, request.stop[0]);
}

TEST(EngineCoreTest, TextHeldBackForAStopStringComesWithTheLastOutput) {
  CoreBench bench(Options());
  RecordingSink sink;
  const Request plain = Greedy(1, Prompt(5), 6);
  const std::string text =
      ReferenceContinuation(plain, 0, bench.options, bench.model, bench.tokenizer).text;
  Request request = plain;
  request.stop = {text + "never"};
  bench.Submit(request, sink);
  bench.RunToEnd();
  EXPECT_EQ(sink.continuations[0].text, text);
  EXPECT_EQ(sink.continuations[0].finish_reason, FinishReason::kLength);
}

TEST(EngineCoreTest, SummaryTellsTimesAndTokens) {
  CoreBench bench(Options());
  RecordingSink first;
  RecordingSink second;
  bench.Submit(Greedy(1, Prompt(16), 3), first);
  bench.Submit(Greedy(2, Prompt(20, 1), 3), second);  // the budget is spent: queued for a step
  bench.RunToEnd();
  ASSERT_TRUE(second.summary.has_value());
  const RequestSummary& summary = *second.summary;
  EXPECT_EQ(summary.prompt_tokens, 20);
  EXPECT_EQ(summary.cached_tokens, 0);
  EXPECT_EQ(summary.generated_tokens, 3);
  EXPECT_EQ(summary.preemptions, 0);
  EXPECT_EQ(summary.queue_seconds, 1);
  EXPECT_EQ(summary.ttft_seconds, 2);
  EXPECT_EQ(summary.total_seconds, 4);
  EXPECT_THAT(summary.itl_seconds, ElementsAre(1, 1));
  EXPECT_EQ(bench.observer.finished.size(), 2u);
}

TEST(EngineCoreTest, APrefixIsComputedOnce) {
  CoreBench bench(Options());
  const Request first = Greedy(1, Prompt(30), 4);
  Request second = Greedy(2, Prompt(26), 4);
  second.prompt_tokens.push_back(5);
  RecordingSink sinks[2];
  bench.Submit(first, sinks[0]);
  bench.RunToEnd();
  EXPECT_EQ(bench.core.pool().used_blocks(), 0);
  const int64_t before = bench.model.tokens_computed();
  bench.Submit(second, sinks[1]);
  bench.RunToEnd();
  ExpectAsReference(bench, first, sinks[0]);
  ExpectAsReference(bench, second, sinks[1]);
  EXPECT_EQ(sinks[0].summary->cached_tokens, 0);
  EXPECT_EQ(sinks[1].summary->cached_tokens, 24);  // six blocks of four
  EXPECT_EQ(bench.model.tokens_computed() - before, 27 - 24 + 3);
}

TEST(EngineCoreTest, AKnownPromptStillComputesItsLastToken) {
  CoreBench bench(Options());
  RecordingSink sinks[2];
  for (uint64_t i = 0; i < 2; ++i) {
    const Request request = Greedy(i + 1, Prompt(16), 2);
    bench.Submit(request, sinks[i]);
    bench.RunToEnd();
    ExpectAsReference(bench, request, sinks[i]);
  }
  EXPECT_EQ(sinks[1].summary->cached_tokens, 12);
}

TEST(EngineCoreTest, RunningSequencesShareAPrefix) {
  CoreBench bench(Options());
  RecordingSink sinks[2];
  const Request requests[] = {Greedy(1, Prompt(16), 20), Greedy(2, Prompt(18), 20)};
  bench.Submit(requests[0], sinks[0]);
  bench.Step();
  bench.Submit(requests[1], sinks[1]);
  bench.Step();
  EXPECT_EQ(bench.core.pool().used_blocks(), 5 + 1);  // four in common; the second has one more
  bench.RunToEnd();
  for (int i = 0; i < 2; ++i) ExpectAsReference(bench, requests[i], sinks[i]);
  EXPECT_EQ(sinks[1].summary->cached_tokens, 16);
}

TEST(EngineCoreTest, PrefixesOfOtherSaltsAreNotShared) {
  CoreBench bench(Options());
  const char* salts[] = {"", "a", "b", "a"};
  for (uint64_t i = 0; i < 4; ++i) {
    Request request = Greedy(i + 1, Prompt(17), 1);
    request.cache_salt = salts[i];
    RecordingSink sink;
    bench.Submit(request, sink);
    bench.RunToEnd();
    EXPECT_EQ(sink.summary->cached_tokens, i == 3 ? 16 : 0) << i;
  }
}

TEST(EngineCoreTest, WhatWasGeneratedSparselyIsNotShared) {
  for (const SelectionKind kind : {SelectionKind::kAll, SelectionKind::kWindow}) {
    CoreBench bench(Options());
    Request first = Greedy(1, Prompt(8), 9);
    first.attention.kind = kind;
    RecordingSink sinks[2];
    bench.Submit(first, sinks[0]);
    bench.RunToEnd();
    std::vector<int32_t> conversation = first.prompt_tokens;
    for (const int32_t token : sinks[0].continuations[0].token_ids()) conversation.push_back(token);
    bench.Submit(Greedy(2, conversation, 1), sinks[1]);
    bench.RunToEnd();
    EXPECT_EQ(sinks[1].summary->cached_tokens, kind == SelectionKind::kAll ? 16 : 8);
  }
}

TEST(EngineCoreTest, KnownPrefixesGiveWayToSequences) {
  CoreBench bench(Options(/*blocks=*/8));
  RecordingSink sinks[3];
  const Request requests[] = {Greedy(1, Prompt(16), 1), Greedy(2, Prompt(24, 3), 8),
                              Greedy(3, Prompt(16), 1)};
  for (int i = 0; i < 3; ++i) {
    bench.Submit(requests[i], sinks[i]);
    bench.RunToEnd();
    ExpectAsReference(bench, requests[i], sinks[i]);
  }
  EXPECT_EQ(sinks[2].summary->cached_tokens, 0);
}

TEST(EngineCoreTest, ContinuationsShareThePromptsBlocksAndItsComputation) {
  CoreBench bench(Options());
  RecordingSink sink(4);
  const Request request = Sampled(1, Prompt(14), 6, 4);
  bench.Submit(request, sink);
  bench.Step();
  // Three full blocks owned together, the partly filled fourth by each.
  EXPECT_EQ(bench.core.pool().used_blocks(), 3 + 4);
  bench.RunToEnd();
  ExpectAsReference(bench, request, sink);
  EXPECT_EQ(bench.model.tokens_computed(), 14 + 4 * 5);
  EXPECT_EQ(sink.summary->generated_tokens, 24);
  EXPECT_EQ(sink.summary->itl_seconds.size(), 20u);
  EXPECT_NE(sink.continuations[0].text, sink.continuations[1].text);
}

TEST(EngineCoreTest, PromptThatFillsItsBlocksIsSharedWithoutACopy) {
  CoreBench bench(Options());
  RecordingSink sink(3);
  const Request request = Sampled(1, Prompt(8), 6, 3);
  bench.Submit(request, sink);
  bench.Step();
  EXPECT_EQ(bench.core.pool().used_blocks(), 2);
  bench.RunToEnd();
  ExpectAsReference(bench, request, sink);
}

TEST(EngineCoreTest, ContinuationWithoutABlockForItsForkIsComputedLater) {
  EngineOptions options = Options(4);
  CoreBench bench(options);
  RecordingSink sink(8);
  const Request request = Sampled(1, Prompt(11), 5, 8);
  bench.Submit(request, sink);
  bench.RunToEnd();
  ExpectAsReference(bench, request, sink);
  EXPECT_TRUE(sink.summary->status.ok());
}

TEST(EngineCoreTest, PreemptedSequenceSelectsTheSameTokensAfterResume) {
  CoreBench bench(Options(12));
  std::vector<RecordingSink> sinks(3);
  std::vector<Request> requests;
  for (uint64_t id = 0; id < 3; ++id) {
    Request request = Sampled(id, Prompt(8, static_cast<int>(id)), 24);
    request.sampling.repetition_penalty = 1.3f;
    request.sampling.frequency_penalty = 0.2f;
    requests.push_back(request);
    bench.Submit(request, sinks[id]);
  }
  bench.RunToEnd();
  EXPECT_GT(bench.observer.preemptions, 0);
  for (size_t i = 0; i < 3; ++i) ExpectAsReference(bench, requests[i], sinks[i]);
  EXPECT_EQ(sinks[0].summary->preemptions, 0) << "the oldest gives way to nobody";
  EXPECT_EQ(sinks[1].summary->preemptions + sinks[2].summary->preemptions,
            bench.observer.preemptions);
}

TEST(EngineCoreTest, RequestThatTakesTheWholePoolRunsAlone) {
  CoreBench bench(Options(8));
  RecordingSink small;
  RecordingSink large;
  bench.Submit(Greedy(1, Prompt(4), 10), small);
  bench.Submit(Greedy(2, Prompt(30), 2), large);
  bench.RunToEnd();
  EXPECT_TRUE(small.summary->status.ok());
  EXPECT_TRUE(large.summary->status.ok());
}

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
  EXPECT_LE(bench.core.pool().used_blocks(), bench.core.pool().BlocksFor(6 + 4));
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

TEST(EngineCoreTest, LogprobsAreReportedAsAsked) {
  CoreBench bench(Options());
  RecordingSink sink;
  Request request = Sampled(1, Prompt(5), 8);
  request.sampling.temperature = 3;
  request.logprobs = true;
  request.top_logprobs = 3;
  bench.Submit(request, sink);
  bench.RunToEnd();
  const RecordingSink::Continuation expected =
      ReferenceContinuation(request, 0, bench.options, bench.model, bench.tokenizer);
  for (size_t i = 0; i < 8; ++i) {
    const OutputToken& token = sink.continuations[0].tokens[i];
    EXPECT_FLOAT_EQ(*token.logprob, *expected.tokens[i].logprob);
    ASSERT_EQ(token.top_logprobs.size(), 3u);
    EXPECT_EQ(token.top_logprobs[0].token, expected.tokens[i].top_logprobs[0].token);
  }
}

TEST(EngineCoreTest, LogitsThatAreNoNumbersEndOnlyTheirRequest) {
  CoreBench bench(Options());
  RecordingSink broken(3);
  RecordingSink fine;
  Request request = Sampled(1, Prompt(5), 50, 3);
  request.sampling.logit_bias = {{9, 3.0f}};
  bench.model.nan_after_token = 9;
  Request other = Greedy(2, {1, 2}, 10);
  other.sampling.logit_bias = {{9, -1000.0f}};
  bench.Submit(request, broken);
  bench.Submit(other, fine);
  bench.RunToEnd();
  EXPECT_EQ(broken.summary->status.code(), absl::StatusCode::kInternal);
  EXPECT_TRUE(fine.summary->status.ok());
  EXPECT_TRUE(bench.core.healthy());
}

TEST(EngineCoreTest, DeviceErrorEndsEveryRequestAndIsRemembered) {
  CoreBench bench(Options());
  std::vector<RecordingSink> sinks(3);
  for (uint64_t id = 0; id < 3; ++id) bench.Submit(Greedy(id, Prompt(9), 9), sinks[id]);
  bench.Step();
  bench.model.before_forward = [](const StepBatch&) { return absl::InternalError("smoke"); };
  bench.Step();
  for (const RecordingSink& sink : sinks) {
    EXPECT_EQ(sink.summary->status.code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(std::string(sink.summary->status.message()), HasSubstr("smoke"));
  }
  EXPECT_FALSE(bench.core.healthy());
  RecordingSink late;
  bench.Submit(Greedy(9, Prompt(2), 2), late);
  EXPECT_EQ(late.summary->status.code(), absl::StatusCode::kUnavailable);
}

TEST(EngineCoreTest, DrainLetsRequestsFinishUpToItsLimit) {
  CoreBench bench(Options());
  RecordingSink quick;
  RecordingSink slow;
  bench.Submit(Greedy(1, Prompt(4), 3), quick);
  bench.Submit(Greedy(2, Prompt(4), 50), slow);
  bench.Step();
  bench.core.DrainUntil(bench.now + absl::Seconds(10));
  EXPECT_EQ(bench.core.NextDeadline(), bench.now + absl::Seconds(10));
  bench.RunToEnd();
  EXPECT_TRUE(quick.summary->status.ok());
  EXPECT_EQ(slow.summary->status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(bench.core.requests(), 0);
  EXPECT_EQ(bench.core.NextDeadline(), absl::InfiniteFuture());
}

TEST(EngineCoreTest, GaugesTellRunningAndWaitingRequestsAndBlocks) {
  CoreBench bench(Options(8));
  std::vector<RecordingSink> sinks(3);
  for (uint64_t id = 0; id < 3; ++id) bench.Submit(Greedy(id, Prompt(14), 9), sinks[id]);
  EXPECT_EQ(bench.core.admission().waiting().requests, 3);
  bench.Step();
  EXPECT_EQ(bench.core.admission().waiting().requests, 2);
  EXPECT_EQ(bench.observer.gauges.running_requests, 1);
  EXPECT_EQ(bench.observer.gauges.waiting_requests, 2);
  EXPECT_EQ(bench.observer.gauges.kv_blocks_used, 4);
  EXPECT_EQ(bench.observer.gauges.kv_blocks_total, 8);
  bench.RunToEnd();
  EXPECT_EQ(bench.observer.gauges.running_requests, 0);
  EXPECT_EQ(bench.observer.gauges.kv_blocks_used, 0);
}

TEST(EngineCoreTest, RequestsWithoutASeedDiffer) {
  CoreBench bench(Options());
  std::vector<RecordingSink> sinks(2);
  for (uint64_t id = 0; id < 2; ++id) {
    Request request = Sampled(id, Prompt(5), 30);
    request.sampling.seed.reset();
    bench.Submit(request, sinks[id]);
  }
  bench.RunToEnd();
  EXPECT_NE(sinks[0].continuations[0].text, sinks[1].continuations[0].text);
}

TEST(CheckRequestTest, NamesTheFieldAtFault) {
  const EngineOptions options = Options(8);  // 32 tokens
  const auto error = [&](const Request& request) {
    const absl::Status status = CheckRequest(request, options, kVocab);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    return std::string(status.message());
  };
  EXPECT_TRUE(CheckRequest(Greedy(1, Prompt(30), 2), options, kVocab).ok());
  EXPECT_THAT(error(Greedy(1, {}, 2)), HasSubstr("prompt"));
  EXPECT_THAT(error(Greedy(1, Prompt(128), 2)), HasSubstr("context of 128"));
  EXPECT_THAT(error(Greedy(1, {1, kVocab}, 2)), HasSubstr("vocabulary"));
  EXPECT_THAT(error(Greedy(1, {-1}, 2)), HasSubstr("vocabulary"));
  EXPECT_THAT(error(Greedy(1, Prompt(2), 0)), HasSubstr("max_tokens"));
  EXPECT_THAT(error(Greedy(1, Prompt(30), 3)), HasSubstr("KV cache holds 32"));
  EXPECT_THAT(error(Greedy(1, Prompt(30), 2'000'000'000)), HasSubstr("KV cache"));
  EXPECT_THAT(error(Sampled(1, Prompt(3), 2, 0)), HasSubstr("n:"));
  EXPECT_THAT(error(Sampled(1, Prompt(3), 2, 9)), HasSubstr("between 1 and 8"));
  Request request = Greedy(1, Prompt(3), 2);
  request.sampling.logit_bias = {{kVocab, 1.0f}};
  EXPECT_THAT(error(request), HasSubstr("logit_bias"));
  request.sampling.logit_bias = {{0, NAN}};
  EXPECT_THAT(error(request), HasSubstr("logit_bias"));
}

}  // namespace
}  // namespace winnow
