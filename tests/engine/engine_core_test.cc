#include "engine/engine_core.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "tests/engine/fakes.h"

namespace winnow {
namespace {

using ::testing::ElementsAreArray;

constexpr int kVocab = 16;
constexpr int kBlockTokens = 4;

EngineOptions Options(int blocks = 64) {
  return {.block_tokens = kBlockTokens,
          .kv_blocks = blocks,
          .max_context = 128,
          .max_step_tokens = 16,
          .max_running_sequences = 8,
          .max_waiting_requests = 64,
          .kv_bytes_per_token = 100};
}

/// A core with its fakes; the clock moves by a second with every step.
struct Bench {
  explicit Bench(const EngineOptions& options)
      : options(options),
        model(options.kv_blocks, options.block_tokens, kVocab),
        core(options, model, tokenizer, observer, [this] { return now; }) {
    model.Watch(core.pool());
  }
  ~Bench() {
    core.EndAll(absl::CancelledError("over"));
    EXPECT_EQ(core.pool().free_blocks(), options.kv_blocks);
    EXPECT_EQ(model.corruptions(), 0);
  }

  bool Step() {
    const bool worked = core.Step();
    core.CheckInvariants();
    model.PoisonFreeBlocks();
    now += absl::Seconds(1);
    return worked;
  }
  int RunToEnd() {
    int steps = 0;
    while (Step()) ++steps;
    return steps;
  }

  EngineOptions options;
  absl::Time now = absl::UnixEpoch();
  LetterTokenizer tokenizer{kVocab};
  HistoryModel model;
  RecordingObserver observer;
  EngineCore core;
};

Request Greedy(uint64_t id, std::vector<int32_t> prompt, int max_tokens) {
  Request request;
  request.id = id;
  request.prompt_tokens = std::move(prompt);
  request.sampling.temperature = 0;
  request.max_tokens = max_tokens;
  request.ignore_eos = true;
  return request;
}

/// What greedy decoding gives, straight from the model.
std::vector<int32_t> GreedyReference(const HistoryModel& model, std::vector<int32_t> history,
                                     int count) {
  std::vector<int32_t> chosen;
  for (int i = 0; i < count; ++i) {
    const std::vector<float> logits = model.LogitsAfter(history);
    chosen.push_back(static_cast<int32_t>(std::ranges::max_element(logits) - logits.begin()));
    history.push_back(chosen.back());
  }
  return chosen;
}

TEST(EngineCoreTest, GreedyTokensAreThoseOfTheModelOnTheWholeHistory) {
  Bench bench(Options());
  RecordingSink sink;
  bench.core.Submit(Greedy(1, {1, 2, 3, 4, 5}, 20), &sink, bench.now);
  bench.RunToEnd();
  EXPECT_THAT(sink.continuations[0].token_ids(),
              ElementsAreArray(GreedyReference(bench.model, {1, 2, 3, 4, 5}, 20)));
  EXPECT_EQ(sink.continuations[0].finish_reason, FinishReason::kLength);
  ASSERT_TRUE(sink.summary.has_value());
  EXPECT_TRUE(sink.summary->status.ok());
}

}  // namespace
}  // namespace winnow
