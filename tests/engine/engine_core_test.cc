#include "engine/engine_core.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/engine/core_requests.h"
#include "tests/engine/fakes.h"

namespace winnow {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

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

TEST(EngineCoreTest, OnlyTokensOfRequestsThatWantItAreDescribed) {
  CoreBench bench(Options());
  RecordingSink greedy;
  RecordingSink sampled(2);
  const Request first = Greedy(1, Prompt(5), 20);
  Request second = Sampled(2, Prompt(9), 5, 2);
  second.logprobs = true;
  second.top_logprobs = 3;
  bench.Submit(first, greedy);
  bench.Submit(second, sampled);
  bench.RunToEnd();
  ExpectAsReference(bench, first, greedy);
  ExpectAsReference(bench, second, sampled);
  EXPECT_EQ(bench.model.tokens_described(), 2 * 5);
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
    request.sampling.logit_bias = {{CoreBench::kVocab - 1, 100.0f}};
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
  EXPECT_EQ(bench.core.load().waiting.total().requests, 3);
  bench.Step();
  EXPECT_EQ(bench.core.load().waiting.total().requests, 2);
  EXPECT_EQ(bench.core.gauges().running_requests, 1);
  EXPECT_EQ(bench.core.gauges().waiting_requests, 2);
  EXPECT_EQ(bench.core.gauges().kv_blocks_used, 4);
  EXPECT_EQ(bench.core.gauges().kv_blocks_total, 8);
  bench.RunToEnd();
  EXPECT_EQ(bench.core.gauges().running_requests, 0);
  EXPECT_EQ(bench.core.gauges().kv_blocks_used, 0);
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

}  // namespace
}  // namespace winnow
