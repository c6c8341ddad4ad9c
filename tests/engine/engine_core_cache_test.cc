#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "engine/engine_core.h"
#include "tests/engine/core_requests.h"
#include "tests/engine/fakes.h"

namespace winnow {
namespace {

TEST(EngineCoreTest, APrefixIsComputedOnce) {
  CoreBench bench(Options());
  const Request first = Greedy(1, Prompt(30), 4);
  Request second = Greedy(2, Prompt(26), 4);
  second.prompt_tokens.push_back(5);
  RecordingSink sinks[2];
  bench.Submit(first, sinks[0]);
  bench.RunToEnd();
  EXPECT_EQ(bench.core.store().used_blocks(), 0);
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
  EXPECT_EQ(bench.core.store().used_blocks(), 5 + 1);  // four in common; the second has one more
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
  EXPECT_EQ(bench.core.store().used_blocks(), 3 + 4);
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
  EXPECT_EQ(bench.core.store().used_blocks(), 2);
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

}  // namespace
}  // namespace winnow
