#include "server/grpc/response.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "tests/server/fake_tokenizer.h"

namespace winnow {
namespace {

using ::testing::ElementsAre;

Output Piece(int index, const std::string& text) {
  Output output;
  output.index = index;
  output.text = text;
  for (const char c : text)
    output.tokens.push_back({.token = c, .logprob = {}, .top_logprobs = {}});
  return output;
}

TEST(Response, JoinsPiecesOfTheSameContinuation) {
  const FakeTokenizer tokenizer;
  v1::GenerateResponse response;
  Output last = Piece(0, "c");
  last.finish_reason = FinishReason::kStop;
  last.matched_stop = "END";
  AppendOutputs({Piece(0, "a"), Piece(1, "x"), Piece(0, "b")}, tokenizer, &response);
  AppendOutputs({last}, tokenizer, &response);
  ASSERT_EQ(response.outputs_size(), 2);
  EXPECT_EQ(response.outputs(0).index(), 0);
  EXPECT_EQ(response.outputs(0).text(), "abc");
  EXPECT_THAT(response.outputs(0).token_ids(), ElementsAre('a', 'b', 'c'));
  EXPECT_EQ(response.outputs(0).finish_reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(response.outputs(0).matched_stop(), "END");
  EXPECT_EQ(response.outputs(0).logprobs_size(), 0);
  EXPECT_EQ(response.outputs(1).text(), "x");
  EXPECT_EQ(response.outputs(1).finish_reason(), v1::FINISH_REASON_UNSPECIFIED);
}

TEST(Response, SpellsTheTokensOfLogProbabilities) {
  const FakeTokenizer tokenizer;
  v1::GenerateResponse response;
  Output output;
  output.tokens.push_back({.token = FakeTokenizer::kEos,
                           .logprob = -0.5f,
                           .top_logprobs = {{0xE2, -0.25f}, {FakeTokenizer::kEos, -0.5f}}});
  AppendOutputs({output}, tokenizer, &response);
  const v1::TokenLogprobs& logprobs = response.outputs(0).logprobs(0);
  EXPECT_EQ(logprobs.chosen().token_id(), FakeTokenizer::kEos);
  EXPECT_EQ(logprobs.chosen().token(), "<eos>");
  EXPECT_EQ(logprobs.chosen().logprob(), -0.5f);
  ASSERT_EQ(logprobs.top_size(), 2);
  EXPECT_EQ(logprobs.top(0).token(), "\xE2");  // half a character: bytes, not text
  EXPECT_EQ(logprobs.top(0).logprob(), -0.25f);
}

TEST(Response, BytesAreKnownWithoutMakingIt) {
  const FakeTokenizer tokenizer;
  std::vector<Output> outputs;
  for (int i = 0; i < 500; ++i) {
    Output output = Piece(i % 4, "xy");
    if (i % 2 == 0) {
      for (OutputToken& token : output.tokens) {
        token.logprob = -1.5f;
        token.top_logprobs.assign(20, {FakeTokenizer::kEos, -2.5f});
      }
    }
    outputs.push_back(output);
  }
  v1::GenerateResponse response;
  AppendOutputs(outputs, tokenizer, &response);
  const auto bytes = static_cast<double>(response.ByteSizeLong());
  EXPECT_NEAR(static_cast<double>(ResponseBytes(outputs, tokenizer)), bytes, 0.1 * bytes);
}

TEST(Response, BytesAreExpectedByWhatTheRequestAsksFor) {
  // Ids as large vocabularies have them, and tokens of the mean length.
  Request request;
  request.n = 3;
  request.max_tokens = 100;
  for (const int top_logprobs : {-1, 0, 5, 20}) {
    request.logprobs = top_logprobs >= 0;
    request.top_logprobs = std::max(0, top_logprobs);
    v1::GenerateResponse response;
    for (int index = 0; index < request.n; ++index) {
      v1::Output* output = response.add_outputs();
      for (int i = 0; i < request.max_tokens; ++i) {
        output->mutable_text()->append("seven b");
        output->add_token_ids(30'000);
        if (!request.logprobs) continue;
        v1::TokenLogprobs* logprobs = output->add_logprobs();
        for (int top = -1; top < request.top_logprobs; ++top) {
          v1::TokenLogprob* one = top < 0 ? logprobs->mutable_chosen() : logprobs->add_top();
          one->set_token_id(30'000);
          one->set_token("seven b");
          one->set_logprob(-1.5f);
        }
      }
    }
    const auto bytes = static_cast<double>(response.ByteSizeLong());
    EXPECT_NEAR(ExpectedResponseBytes(request, 7), bytes, 0.05 * bytes) << top_logprobs;
  }
}

TEST(Response, ReportsUsageAndTimings) {
  RequestSummary summary;
  summary.prompt_tokens = 5;
  summary.cached_tokens = 2;
  summary.generated_tokens = 7;
  summary.queue_seconds = 0.25;
  summary.ttft_seconds = 0.5;
  summary.total_seconds = 1.5;
  v1::GenerateResponse response;
  SetSummary(summary, &response);
  EXPECT_EQ(response.summary().usage().prompt_tokens(), 5);
  EXPECT_EQ(response.summary().usage().cached_tokens(), 2);
  EXPECT_EQ(response.summary().usage().generated_tokens(), 7);
  EXPECT_EQ(response.summary().timings().queue_seconds(), 0.25);
  EXPECT_EQ(response.summary().timings().ttft_seconds(), 0.5);
  EXPECT_EQ(response.summary().timings().total_seconds(), 1.5);
}

}  // namespace
}  // namespace winnow
