// Generation through the real server: what one client gets must not depend on what others do.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <iostream>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "tests/integration/client.h"
#include "tests/integration/server_process.h"
#include "winnow/v1/tokenizer.grpc.pb.h"

namespace winnow {
namespace {

using ::testing::Each;
using ::testing::ElementsAreArray;
using ::testing::SizeIs;

constexpr char kUsedBlocks[] = "winnow_kv_blocks{state=\"used\"}";

constexpr int kWideTokens = 240;  ///< of a continuation of Wide

/// About 16 tokens for each of the lines.
std::string LongText(int lines) {
  std::string text;
  for (int i = 0; i < lines; ++i) {
    absl::StrAppend(&text, "Item ", i, " of the list was counted ", i * i, " times last year.\n");
  }
  return text;
}

class GenerationTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    // Steps of 256 tokens cut the longer prompts into chunks that mix with others' decode tokens.
    auto server = ServerProcess::Start(
        {"--max-context", "2048", "--kv-tokens", "8192", "--max-step-tokens", "256"});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  static void TearDownTestSuite() { server_.reset(); }

  void SetUp() override {
    ASSERT_NE(server_, nullptr);
    stub_ = v1::GenerationService::NewStub(Connect(server_->address()));
  }
  /// Whatever a test did, in the end every block is free.
  void TearDown() override { EXPECT_TRUE(server_->BecomesIdle()) << server_->Log(); }

  /// The same request with no other one running.
  Generation Alone(const v1::GenerateRequest& request) {
    EXPECT_TRUE(server_->BecomesIdle());
    Generation generation = Generate(*stub_, request);
    EXPECT_TRUE(generation.status.ok()) << generation.status.error_message();
    return generation;
  }

  static double ForwardSteps() {
    double steps = 0;
    for (const char* kind : {"prefill", "decode", "mixed"}) {
      steps += server_
                   ->Metric(absl::StrCat("winnow_step_duration_seconds_count{kind=\"", kind,
                                         "\",phase=\"forward\"}"))
                   .value_or(0);
    }
    return steps;
  }

  static std::unique_ptr<ServerProcess> server_;
  std::unique_ptr<v1::GenerationService::Stub> stub_;
};

std::unique_ptr<ServerProcess> GenerationTest::server_;

TEST_F(GenerationTest, EightConcurrentCallsGetWhatTheyGetOneByOne) {
  std::vector<v1::GenerateRequest> requests = {
      Greedy("The capital of France is", 24),
      Greedy(LongText(24), 12),
      GreedyChat("Name three colours.", 24),
      Greedy("def fibonacci(n):", 24),
      Greedy("Once upon a time", 32),
      Greedy(LongText(8), 20),
      GreedyChat("What is a remote procedure call?", 16),
      Greedy("1, 2, 3, 4,", 8),
  };
  requests[3].set_n(3);
  requests[5].set_logprobs(true);
  requests[6].set_n(2);

  const double steps_before = ForwardSteps();
  std::vector<Generation> alone;
  for (const v1::GenerateRequest& request : requests) alone.push_back(Alone(request));
  const double steps_alone = ForwardSteps() - steps_before;

  std::vector<Generation> together(requests.size());
  std::vector<std::thread> clients;
  for (size_t i = 0; i < requests.size(); ++i) {
    clients.emplace_back([&, i] {
      const auto stub = v1::GenerationService::NewStub(Connect(server_->address()));
      together[i] = Generate(*stub, requests[i]);
    });
  }
  for (std::thread& client : clients) client.join();
  const double steps_together = ForwardSteps() - steps_before - steps_alone;

  for (size_t i = 0; i < requests.size(); ++i) {
    SCOPED_TRACE(i);
    ASSERT_TRUE(together[i].status.ok()) << together[i].status.error_message();
    EXPECT_THAT(together[i].continuations, ElementsAreArray(alone[i].continuations));
    EXPECT_THAT(together[i].continuations, SizeIs(requests[i].has_n() ? requests[i].n() : 1));
    EXPECT_EQ(together[i].summary.usage().prompt_tokens(),
              alone[i].summary.usage().prompt_tokens());
  }
  EXPECT_THAT(together[3].continuations, Each(together[3].continuations[0]));
  EXPECT_THAT(together[5].continuations[0].logprobs, SizeIs(20));
  // They were computed together, not one after another.
  EXPECT_LT(steps_together, steps_alone * 2 / 3);
}

TEST_F(GenerationTest, CompleteEqualsTheJoinedStream) {
  v1::GenerateRequest request = Greedy("The three primary colours are", 32);
  request.set_n(2);
  request.set_logprobs(true);
  request.set_top_logprobs(3);
  const Generation streamed = Alone(request);
  const Generation complete = Complete(*stub_, request);
  ASSERT_TRUE(complete.status.ok()) << complete.status.error_message();
  EXPECT_THAT(complete.continuations, ElementsAreArray(streamed.continuations));
  EXPECT_GT(streamed.messages, 1);
  EXPECT_EQ(complete.summary.usage().generated_tokens(), 64);
  EXPECT_EQ(streamed.summary.usage().generated_tokens(), 64);
  EXPECT_GT(streamed.summary.timings().total_seconds(), streamed.summary.timings().ttft_seconds());
}

TEST_F(GenerationTest, LogprobsNameTheGreedyTokenFirstAndDescend) {
  v1::GenerateRequest request = Greedy("The sun rises in the", 8);
  request.set_logprobs(true);
  request.set_top_logprobs(5);
  grpc::ClientContext call;
  v1::GenerateResponse response;
  ASSERT_TRUE(stub_->Complete(&call, request, &response).ok());
  ASSERT_THAT(response.outputs(), SizeIs(1));
  ASSERT_THAT(response.outputs(0).logprobs(), SizeIs(8));
  for (int i = 0; i < 8; ++i) {
    const v1::TokenLogprobs& logprobs = response.outputs(0).logprobs(i);
    EXPECT_EQ(logprobs.chosen().token_id(), response.outputs(0).token_ids(i));
    ASSERT_THAT(logprobs.top(), SizeIs(5));
    EXPECT_EQ(logprobs.top(0).token_id(), logprobs.chosen().token_id());
    EXPECT_EQ(logprobs.top(0).logprob(), logprobs.chosen().logprob());
    for (int j = 0; j < 5; ++j) {
      EXPECT_LE(logprobs.top(j).logprob(), j == 0 ? 0 : logprobs.top(j - 1).logprob());
    }
  }
}

TEST_F(GenerationTest, AStopStringEndsTheTextWhereItFirstAppears) {
  const v1::GenerateRequest request = Greedy("1, 2, 3, 4,", 24);
  const Continuation whole = Alone(request).continuations.at(0);
  ASSERT_GT(whole.text.size(), 16u);
  const std::string stop = whole.text.substr(whole.text.size() / 2, 5);
  v1::GenerateRequest stopping = request;
  stopping.mutable_stop()->add_strings("never in the text");
  stopping.mutable_stop()->add_strings(stop);
  const Continuation stopped = Alone(stopping).continuations.at(0);
  EXPECT_EQ(stopped.text, whole.text.substr(0, whole.text.find(stop)));
  EXPECT_EQ(stopped.finish_reason, v1::FINISH_REASON_STOP);
  EXPECT_EQ(stopped.matched_stop, stop);
  EXPECT_LT(stopped.tokens.size(), whole.tokens.size());
}

TEST_F(GenerationTest, ASeedGivesTheSameTokensWhateverElseRuns) {
  v1::GenerateRequest request = Greedy("My favourite animal is", 24);
  request.mutable_sampling()->set_temperature(1);
  request.mutable_sampling()->set_seed(42);
  request.set_n(2);
  const Generation alone = Alone(request);
  EXPECT_NE(alone.continuations.at(0).tokens, alone.continuations.at(1).tokens);

  v1::GenerateRequest unseeded = request;
  unseeded.mutable_sampling()->clear_seed();
  unseeded.mutable_stop()->set_max_tokens(300);
  Stream others(*stub_, unseeded);
  ASSERT_TRUE(others.ReadTokens(4));
  Stream prompt(*stub_, Greedy(LongText(20), 100));
  const Generation beside = Generate(*stub_, request);
  EXPECT_THAT(beside.continuations, ElementsAreArray(alone.continuations));
  others.Cancel();
  prompt.Cancel();
  others.Finish();
  prompt.Finish();

  request.mutable_sampling()->set_seed(43);
  EXPECT_NE(Alone(request).continuations.at(0).tokens, alone.continuations.at(0).tokens);
}

TEST_F(GenerationTest, ACancelledCallFreesItsBlocksAndDisturbsNobody) {
  const Continuation alone =
      Alone(Greedy("The history of bread begins", kWideTokens)).continuations.at(0);

  // Both go on for as long as nobody reads them.
  Stream other(*stub_, Wide("The history of bread begins", kWideTokens));
  Stream cancelled(*stub_, Wide(LongText(20), kWideTokens));
  ASSERT_TRUE(cancelled.ReadTokens(3));
  ASSERT_TRUE(other.ReadTokens(1));
  EXPECT_TRUE(server_->MetricBecomes("winnow_requests_running", 2));
  cancelled.Cancel();
  EXPECT_TRUE(server_->MetricBecomes("winnow_requests_running", 1));
  EXPECT_EQ(cancelled.Finish().status.error_code(), grpc::StatusCode::CANCELLED);

  // Cancelled before it has computed its prompt.
  Stream early(*stub_, Greedy(LongText(100), 100));
  early.Cancel();
  EXPECT_EQ(early.Finish().status.error_code(), grpc::StatusCode::CANCELLED);
  const Generation& undisturbed = other.Finish();
  ASSERT_THAT(undisturbed.continuations, SizeIs(8));
  for (const Continuation& continuation : undisturbed.continuations) {
    EXPECT_EQ(continuation.tokens, alone.tokens);
  }
}

TEST_F(GenerationTest, AClientThatIsKilledFreesItsBlocks) {
  const char* const cancelled = "winnow_rpcs_total{code=\"CANCELLED\",method=\"Generate\"}";
  const double before = server_->Metric(cancelled).value_or(0);
  {
    const ChildProcess client(
        WinnowCommand({"generate", "--address", server_->address(), "--prompt", "x", "--max-tokens",
                       "2000", "--temperature", "0", "--ignore-eos"}));
    EXPECT_TRUE(server_->MetricBecomes("winnow_requests_running", 1));
  }
  EXPECT_TRUE(server_->MetricBecomes(cancelled, before + 1));
  EXPECT_TRUE(server_->MetricBecomes(kUsedBlocks, 0));
}

TEST_F(GenerationTest, AnExpiredCallFreesItsBlocksAndKeepsWhatCameInTime) {
  const v1::GenerateRequest request = Greedy("The history of bread begins", 40);
  const Generation alone = Alone(request);

  // Half the time that it takes is too short; half of that, should the machine be faster now. A
  // server that does nothing else tries even what looks hopeless.
  const v1::GenerateRequest late = Greedy("The history of wine begins", 200);
  absl::Duration limit = absl::Seconds(Alone(late).summary.timings().total_seconds());
  grpc::StatusCode code = grpc::StatusCode::OK;
  while (code == grpc::StatusCode::OK) {
    limit /= 2;
    ASSERT_TRUE(server_->BecomesIdle());
    Stream expired(*stub_, late, limit);
    ASSERT_TRUE(expired.ReadTokens(1));
    Stream other(*stub_, request);
    code = expired.Finish().status.error_code();
    EXPECT_GT(expired.generation().tokens(), 1);
    EXPECT_THAT(other.Finish().continuations, ElementsAreArray(alone.continuations));
    EXPECT_TRUE(server_->MetricBecomes(kUsedBlocks, 0));
  }
  EXPECT_EQ(code, grpc::StatusCode::DEADLINE_EXCEEDED);

  for (code = grpc::StatusCode::OK; code == grpc::StatusCode::OK; limit /= 2) {
    grpc::ClientContext call;
    call.set_deadline(absl::ToChronoTime(absl::Now() + limit));
    v1::GenerateResponse response;
    code = stub_->Complete(&call, late, &response).error_code();
    EXPECT_TRUE(server_->MetricBecomes(kUsedBlocks, 0));
  }
  EXPECT_EQ(code, grpc::StatusCode::DEADLINE_EXCEEDED);
}

TEST_F(GenerationTest, ASlowReaderPausesOnlyItselfAndLosesNothing) {
  const v1::GenerateRequest request = Greedy("The history of bread begins", kWideTokens + 20);
  const Generation alone = Alone(request);
  const Continuation expected = Alone(Greedy("A list of cities:", kWideTokens)).continuations.at(0);

  const char* const decoded = "winnow_computed_tokens_total{kind=\"decode\"}";
  const double start = server_->Metric(decoded).value_or(0);
  Stream slow(*stub_, Wide("A list of cities:", kWideTokens));
  ASSERT_TRUE(slow.ReadTokens(1));
  // The other one takes more steps than the slow one would, if it went on.
  EXPECT_THAT(Generate(*stub_, request).continuations, ElementsAreArray(alone.continuations));
  EXPECT_TRUE(server_->MetricBecomes("winnow_requests_running", 1));
  // The slow one is far from its end: what transport buffers let through now and then is little.
  EXPECT_LT(server_->Metric(decoded).value_or(0), start + kWideTokens + 19 + 8 * kWideTokens / 2);

  const Generation& finished = slow.Finish();
  EXPECT_TRUE(finished.status.ok()) << finished.status.error_message();
  ASSERT_THAT(finished.continuations, SizeIs(8));
  for (const Continuation& continuation : finished.continuations) {
    EXPECT_EQ(continuation.tokens, expected.tokens);
    EXPECT_EQ(continuation.text, expected.text);
    EXPECT_THAT(continuation.tops, Each(20));
  }
}

TEST_F(GenerationTest, ASlowReaderThatIsCancelledFreesItsBlocks) {
  Stream slow(*stub_, Wide("A list of cities:", kWideTokens));
  ASSERT_TRUE(slow.ReadTokens(1));
  // In the meantime the slow one is paused.
  EXPECT_TRUE(Generate(*stub_, Greedy("x", kWideTokens)).status.ok());
  EXPECT_GE(server_->Metric(kUsedBlocks).value_or(0), 8);
  slow.Cancel();
  EXPECT_TRUE(server_->MetricBecomes(kUsedBlocks, 0));
  EXPECT_EQ(slow.Finish().status.error_code(), grpc::StatusCode::CANCELLED);
}

/// Texts that take long to tokenize, for their length.
std::vector<std::string> HardTexts(size_t bytes) {
  std::mt19937 random(1);
  std::vector<std::string> texts = {std::string(bytes, ' '), std::string(bytes, '.'),
                                    std::string(bytes, 'a'), std::string(bytes, '\0'),
                                    std::string(bytes, '\0')};
  const std::string base64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  for (char& c : texts[3]) c = base64[random() % base64.size()];
  for (char& c : texts[4]) c = static_cast<char>('a' + random() % 26);
  return texts;
}

TEST_F(GenerationTest, HugeTextsHoldUpNeitherHealthNorShortRequests) {
  // Once a text of 3.9 MB took seconds of one of gRPC's few threads, and these stopped all service.
  constexpr absl::Duration kLimit = absl::Seconds(5);
  const std::vector<std::string> huge = HardTexts(3'900'000);
  const std::vector<std::string> large = HardTexts(1'000'000);
  for (const bool tokenize : {false, true}) {
    std::atomic<bool> stopping = false;
    std::atomic<int> sent = 0;
    std::vector<std::thread> clients;
    for (size_t i = 0; i < (tokenize ? 8 : 4); ++i) {
      clients.emplace_back([&, i] {
        const auto channel = Connect(server_->address());
        const auto generation = v1::GenerationService::NewStub(channel);
        const auto tokenizer = v1::TokenizerService::NewStub(channel);
        for (size_t turn = i; !stopping; ++turn) {
          grpc::ClientContext call;
          call.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(10)));
          ++sent;
          if (tokenize) {
            v1::TokenizeRequest request;
            request.set_text(large[turn % large.size()]);
            v1::TokenizeResponse response;
            tokenizer->Tokenize(&call, request, &response);
          } else {
            v1::GenerateResponse response;
            generation->Complete(&call, Greedy(huge[turn % huge.size()], 1), &response);
          }
        }
      });
    }
    const auto channel = Connect(server_->address());
    const auto health = grpc::health::v1::Health::NewStub(channel);
    const auto generation = v1::GenerationService::NewStub(channel);
    absl::Duration slowest_check, slowest_request;
    while (sent < static_cast<int>(clients.size())) std::this_thread::yield();
    for (int i = 0; i < 10 && !HasFailure(); ++i) {
      const absl::Time begin = absl::Now();
      grpc::ClientContext check, call;
      for (grpc::ClientContext* one : {&check, &call}) {
        one->set_deadline(absl::ToChronoTime(begin + absl::Seconds(30)));
      }
      grpc::health::v1::HealthCheckResponse serving;
      EXPECT_EQ(health->Check(&check, {}, &serving).error_message(), "");
      const absl::Time checked = absl::Now();
      v1::GenerateResponse response;
      EXPECT_EQ(generation->Complete(&call, Greedy("x", 1), &response).error_message(), "");
      slowest_check = std::max(slowest_check, checked - begin);
      slowest_request = std::max(slowest_request, absl::Now() - checked);
    }
    stopping = true;
    for (std::thread& client : clients) client.join();
    EXPECT_LT(slowest_check, kLimit);
    EXPECT_LT(slowest_request, kLimit);
    std::cout << (tokenize ? "Tokenize" : "Complete") << ": health took at most " << slowest_check
              << ", one token at most " << slowest_request << "\n";
  }
}

}  // namespace
}  // namespace winnow
