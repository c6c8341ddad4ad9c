// The engine core on a small model whose sequences select by labels: what a sequence says must not
// depend on what happens around it.

#include <string>
#include <vector>

#include "engine/engine_core.h"
#include "gtest/gtest.h"
#include "tests/engine/eval/random_model.h"
#include "tests/engine/fakes.h"

namespace winnow {
namespace {

// Tails count from contexts of 128 on, of which half is at least kEvenBudget tokens.
constexpr int kPrompt = 110;
constexpr int kSparsity = 2;

EngineOptions Options(int blocks) {
  EngineOptions options;
  options.block_tokens = RandomModel::kBlockTokens;
  options.kv_blocks = blocks;
  options.max_context = 256;
  options.max_step_tokens = RandomModel::kStepTokens;
  options.recall.interval_tokens = 2;
  return options;
}

Request SparseRequest(uint64_t id, int shift, int n = 1) {
  Request request;
  request.id = id;
  request.prompt_tokens = RandomModel::Tokens(kPrompt + shift);
  request.prompt_tokens.erase(request.prompt_tokens.begin(), request.prompt_tokens.begin() + shift);
  request.sampling.temperature = 0.8f;
  request.sampling.seed = 5;
  request.attention = {.kind = SelectionKind::kLabels, .sparsity = kSparsity};
  request.max_tokens = 60;
  request.n = n;
  request.ignore_eos = true;
  return request;
}

// Requests run together in a pool of so many blocks.
struct Generation {
  Generation(float tail, const EngineOptions& options, std::vector<Request> requests)
      : model(options.kv_blocks * options.block_tokens, tail),
        core(options, model.transformer(), model.pools(), tokenizer, observer) {
    sinks.reserve(requests.size());
    for (Request& request : requests) {
      sinks.emplace_back(request.n);
      core.Submit(std::move(request), &sinks.back(), absl::Now());
    }
    while (core.Step()) core.CheckInvariants();
  }

  RandomModel model;
  LetterTokenizer tokenizer{RandomModel::kVocab};
  RecordingObserver observer;
  EngineCore core;
  std::vector<RecordingSink> sinks;
};

/// With and without an estimate of what is not chosen.
class SparseEngineTest : public testing::TestWithParam<float> {
 protected:
  static Generation Run(const EngineOptions& options, std::vector<Request> requests) {
    return Generation(GetParam(), options, std::move(requests));
  }
  static std::vector<int32_t> Alone(int shift) {
    return Run(Options(64), {SparseRequest(1, shift)}).sinks[0].continuations[0].token_ids();
  }
};
INSTANTIATE_TEST_SUITE_P(Tail, SparseEngineTest, testing::Values(0.0f, 1.0f));

TEST_P(SparseEngineTest, SelectingMatters) {
  Request dense = SparseRequest(1, 0);
  dense.attention = {};
  const Generation run(GetParam(), Options(64), {dense});
  EXPECT_NE(run.sinks[0].continuations[0].token_ids(), Alone(0));
}

TEST(TailEngineTest, EstimatingMatters) {
  const Generation with(1, Options(64), {SparseRequest(1, 0)});
  const Generation without(0, Options(64), {SparseRequest(1, 0)});
  EXPECT_NE(with.sinks[0].continuations[0].token_ids(),
            without.sinks[0].continuations[0].token_ids());
}

TEST_P(SparseEngineTest, BatchedSequencesSayTheSameAsAlone) {
  std::vector<Request> requests;
  for (int i = 0; i < 5; ++i) requests.push_back(SparseRequest(i + 1, i));
  const Generation run(GetParam(), Options(64), requests);
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(run.sinks[i].continuations[0].token_ids(), Alone(i)) << i;
  }
}

TEST_P(SparseEngineTest, PreemptedSequenceSelectsTheSameTokensAfterResume) {
  std::vector<Request> requests;
  for (int i = 0; i < 4; ++i) requests.push_back(SparseRequest(i + 1, i));
  const Generation run(GetParam(), Options(28), requests);  // one sequence needs 11 blocks
  EXPECT_GT(run.observer.preemptions, 0);
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(run.sinks[i].continuations[0].token_ids(), Alone(i)) << i;
    const SparsitySummary& sparsity = run.sinks[i].summary->sparsity;
    const Generation alone(GetParam(), Options(64), {SparseRequest(1, i)});
    EXPECT_EQ(sparsity.traffic.bytes(), alone.sinks[0].summary->sparsity.traffic.bytes());
    EXPECT_EQ(sparsity.recall_sum, alone.sinks[0].summary->sparsity.recall_sum);
  }
}

TEST_P(SparseEngineTest, ContinuationsShareThePromptsLabels) {
  const Generation forked(GetParam(), Options(64), {SparseRequest(1, 0, 3)});
  EXPECT_EQ(forked.sinks[0].continuations[0].token_ids(), Alone(0));
  // The same continuations when the prompt is computed for each: the pool has no block to fork to.
  const Generation crowded(GetParam(), Options(12), {SparseRequest(1, 0, 3)});
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(forked.sinks[0].continuations[i].token_ids(),
              crowded.sinks[0].continuations[i].token_ids())
        << i;
  }
}

TEST_P(SparseEngineTest, RecallFloorRaisesTheBudgetAlikeAloneAndPreempted) {
  EngineOptions options = Options(64);
  options.recall = {.interval_tokens = 1, .floor = 0.999, .floor_samples = 8};
  const Generation alone(GetParam(), options, {SparseRequest(1, 0)});
  EXPECT_GT(alone.sinks[0].summary->sparsity.fallbacks, 0);
  EXPECT_NE(alone.sinks[0].continuations[0].token_ids(), Alone(0));
  options.kv_blocks = 16;
  const Generation crowded(GetParam(), options, {SparseRequest(2, 3), SparseRequest(1, 0)});
  EXPECT_GT(crowded.observer.preemptions, 0);
  EXPECT_EQ(crowded.sinks[1].continuations[0].token_ids(),
            alone.sinks[0].continuations[0].token_ids());
}

TEST_P(SparseEngineTest, SummaryCountsWhatGeneratedTokensRead) {
  const Generation run(GetParam(), Options(64), {SparseRequest(1, 0)});
  const RequestSummary& summary = *run.sinks[0].summary;
  const KvTraffic& traffic = summary.sparsity.traffic;
  // 2 layers, 1 KV head of 16, 1 sink, a window of 2, labels of 8; the token chosen last is not
  // computed.
  int64_t rows = 0;
  int64_t labels = 0;
  int64_t dense = 0;
  for (int context = kPrompt + 1; context < kPrompt + 60; ++context) {
    rows += 2 * ((context + 1) / 2) * 64;
    labels += 2 * context * 4;
    dense += 2 * context * 64;
  }
  EXPECT_EQ(traffic.row_bytes, rows);
  EXPECT_EQ(traffic.label_bytes, labels);
  // Means of 8 codes, 16 numbers of keys and as many of values, and 8 x 16 slopes, of 2 bytes, in 2
  // layers: for tokens whose budget is kEvenBudget at least, of contexts up to kPrompt + 59.
  const int64_t summaries = kPrompt + 60 - kSparsity * static_cast<int>(kEvenBudget);
  EXPECT_EQ(traffic.summary_bytes, GetParam() > 0 ? summaries * 2 * (8 + 2 * 16 + 8 * 16) * 2 : 0);
  EXPECT_EQ(traffic.dense_bytes, 0);
  EXPECT_EQ(traffic.equivalent_bytes, dense);
  EXPECT_EQ(summary.sparsity.recall_samples, 30);
  EXPECT_GT(summary.sparsity.recall_sum, 3);
  EXPECT_LT(summary.sparsity.recall_sum, 30);
}

}  // namespace
}  // namespace winnow
