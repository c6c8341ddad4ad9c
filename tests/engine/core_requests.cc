#include "tests/engine/core_requests.h"

#include <gtest/gtest.h>

#include <utility>

namespace winnow {

EngineOptions Options(int blocks) {
  return {.block_tokens = 4,
          .kv_blocks = blocks,
          .max_context = 128,
          .max_step_tokens = 16,
          .max_running_sequences = 8,
          .max_waiting_requests = 64,
          .recall = {}};
}

std::vector<int32_t> Prompt(int length, int first) {
  std::vector<int32_t> prompt(static_cast<size_t>(length));
  for (int i = 0; i < length; ++i)
    prompt[static_cast<size_t>(i)] = (first + i * 7) % CoreBench::kVocab;
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

Request Sampled(uint64_t id, std::vector<int32_t> prompt, int max_tokens, int n) {
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

}  // namespace winnow
