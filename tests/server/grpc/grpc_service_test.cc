// The services with the real engine and gRPC over a socket, and a model that needs no file.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "absl/time/clock.h"
#include "engine/engine.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/generic/generic_stub.h"
#include "server/grpc/grpc_server.h"
#include "server/observability/watchdog.h"
#include "tests/server/alphabet_model.h"
#include "tests/server/fake_tokenizer.h"
#include "tests/server/notification.h"
#include "winnow/v1/generation.grpc.pb.h"
#include "winnow/v1/model.grpc.pb.h"
#include "winnow/v1/tokenizer.grpc.pb.h"

namespace winnow {
namespace {

using ::testing::ElementsAre;
using ::testing::SizeIs;

constexpr int kContext = 4000;

EngineOptions Options() {
  EngineOptions options;
  options.block_tokens = 32;
  options.kv_blocks = 256;
  options.max_context = kContext;
  options.max_running_sequences = 2;
  options.max_waiting_requests = 2;
  return options;
}

constexpr absl::Duration kHangLimit = absl::Seconds(60);  ///< a machine may do much else
/// Steps of kSlowly make a request for kEndless tokens one that no test outlasts.
constexpr absl::Duration kSlowly = absl::Milliseconds(20);
constexpr int kEndless = 3900;

class GrpcService : public testing::Test {
 protected:
  GrpcService()
      : served_{.name = "alphabet",
                .title = "Alphabet",
                .architecture = "fake",
                .context_tokens = kContext,
                .trained_context_tokens = 8000,
                .max_sequences = 2,
                .attention = {},
                .tokenizer = &tokenizer_,
                .chat = {}},
        metrics_("alphabet", "fake", {}),
        engine_(Options(), model_, model_, tokenizer_, metrics_) {
    auto server = GrpcServer::Start({.address = {"127.0.0.1", 0, ""}}, context_);
    EXPECT_EQ(server.status(), absl::OkStatus());
    server_ = *std::move(server);
    server_->SetServing(true);
    // Without probing, gRPC's flow control lets 64 KiB through to a client that doesn't read.
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    channel_ = grpc::CreateCustomChannel(server_->address().Text(),
                                         grpc::InsecureChannelCredentials(), arguments);
    generation_ = v1::GenerationService::NewStub(channel_);
  }

  static v1::GenerateRequest Prompt(const std::string& text, int max_tokens) {
    v1::GenerateRequest request;
    request.set_text(text);
    request.mutable_sampling()->set_temperature(0);
    request.mutable_stop()->set_max_tokens(max_tokens);
    return request;
  }

  grpc::Status Complete(const v1::GenerateRequest& request, v1::GenerateResponse* response) {
    grpc::ClientContext call;
    return generation_->Complete(&call, request, response);
  }

  bool MetricIs(const std::string& line) const {
    return metrics_.Text().find("\n" + line + "\n") != std::string::npos;
  }
  /// Waits until the metrics have the line.
  bool MetricBecomes(const std::string& line) const {
    const absl::Time limit = absl::Now() + kHangLimit;
    while (!MetricIs(line) && absl::Now() < limit) absl::SleepFor(absl::Milliseconds(2));
    return MetricIs(line);
  }
  bool PoolBecomesFree() const {
    return MetricBecomes("winnow_kv_blocks{state=\"used\"} 0") &&
           MetricBecomes("winnow_requests_running 0");
  }

  AlphabetModel model_;
  FakeTokenizer tokenizer_;
  ServedModel served_;
  MetricsExporter metrics_;
  Engine engine_;
  std::unique_ptr<Authenticator> authenticator_ = *Authenticator::Open("");
  SessionContext context_{
      .model = served_, .engine = engine_, .metrics = metrics_, .authenticator = *authenticator_};
  std::unique_ptr<GrpcServer> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::GenerationService::Stub> generation_;
};

TEST_F(GrpcService, StreamsPiecesThatJoinToTheUnaryAnswer) {
  const v1::GenerateRequest request = Prompt("x", 40);
  v1::GenerateResponse whole;
  ASSERT_TRUE(Complete(request, &whole).ok());
  ASSERT_THAT(whole.outputs(), SizeIs(1));
  EXPECT_EQ(whole.outputs(0).text().substr(0, 6), "yzabcd");
  EXPECT_EQ(whole.outputs(0).token_ids_size(), 40);
  EXPECT_EQ(whole.outputs(0).finish_reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(whole.summary().usage().prompt_tokens(), 2);
  EXPECT_EQ(whole.summary().usage().generated_tokens(), 40);

  Notification came;
  model_.before_step = [&, steps = 0]() mutable {
    if (++steps == 3) came.WaitForNotification();
  };
  grpc::ClientContext call;
  const auto reader = generation_->Generate(&call, request);
  std::string text;
  int messages = 0;
  v1::GenerateResponse message;
  while (reader->Read(&message)) {
    if (messages++ == 0) came.Notify();
    EXPECT_THAT(message.outputs(), SizeIs(1));
    text += message.outputs(0).text();
    EXPECT_EQ(message.has_summary(), message.outputs(0).finish_reason() != 0);
  }
  ASSERT_TRUE(reader->Finish().ok());
  EXPECT_TRUE(message.has_summary());
  EXPECT_EQ(text, whole.outputs(0).text());
  EXPECT_GT(messages, 1);
}

TEST_F(GrpcService, GivesEachContinuationItsOwnOutput) {
  v1::GenerateRequest request = Prompt("a", 3);
  request.set_n(2);
  v1::GenerateResponse response;
  ASSERT_TRUE(Complete(request, &response).ok());
  ASSERT_THAT(response.outputs(), SizeIs(2));
  for (const v1::Output& output : response.outputs()) EXPECT_EQ(output.text(), "bcd");
  EXPECT_EQ(response.summary().usage().generated_tokens(), 6);
}

TEST_F(GrpcService, AnswersAnInvalidRequestWithAllViolations) {
  v1::GenerateRequest request = Prompt("", 0);
  request.set_n(3);
  v1::GenerateResponse response;
  const grpc::Status status = Complete(request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  google::rpc::Status details;
  ASSERT_TRUE(details.ParseFromString(status.error_details()));
  google::rpc::BadRequest bad_request;
  ASSERT_TRUE(details.details(0).UnpackTo(&bad_request));
  ASSERT_EQ(bad_request.field_violations_size(), 2);
  EXPECT_EQ(bad_request.field_violations(0).field(), "stop.max_tokens");
  EXPECT_EQ(bad_request.field_violations(1).field(), "n");

  grpc::ClientContext call;
  EXPECT_EQ(generation_->Generate(&call, request)->Finish().error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_TRUE(MetricIs("winnow_rpcs_total{code=\"INVALID_ARGUMENT\",method=\"Generate\"} 1"));
}

/// A call with these bytes for a message, or without a message.
grpc::Status CallRaw(const std::shared_ptr<grpc::Channel>& channel, const std::string& method,
                     const std::optional<std::string>& message) {
  grpc::GenericStub stub(channel);
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  const auto call = stub.PrepareCall(&context, method, &queue);
  const auto await = [&queue] {
    void* tag = nullptr;
    bool ok = false;
    queue.Next(&tag, &ok);
  };
  call->StartCall(nullptr);
  await();
  if (message.has_value()) {
    const grpc::Slice slice(*message);
    call->Write(grpc::ByteBuffer(&slice, 1), nullptr);
    await();
  }
  call->WritesDone(nullptr);
  await();
  grpc::Status status;
  call->Finish(&status, nullptr);
  await();
  return status;
}

TEST_F(GrpcService, SaysWhatIsWrongWithAMessageThatCannotBeReadAndCountsIt) {
  for (const auto& [service, method, field] : {std::tuple("GenerationService", "Generate", "text"),
                                               {"GenerationService", "Complete", "text"},
                                               {"TokenizerService", "Tokenize", "text"},
                                               {"TokenizerService", "Detokenize", "message"},
                                               {"ModelService", "GetModel", "message"}}) {
    SCOPED_TRACE(method);
    const std::string path = std::string("/winnow.v1.") + service + "/" + method;
    const std::string bad = std::string(field) == "text" ? "\x12\x02\xff\xfe" : "\x12\x7f";
    for (const auto& [message, expected] :
         {std::pair(std::optional(bad), std::string(field)), {std::nullopt, "message"}}) {
      const grpc::Status status = CallRaw(channel_, path, message);
      EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
      google::rpc::Status details;
      google::rpc::BadRequest bad_request;
      ASSERT_TRUE(details.ParseFromString(status.error_details()));
      ASSERT_TRUE(details.details(0).UnpackTo(&bad_request));
      EXPECT_EQ(bad_request.field_violations(0).field(), expected);
    }
    EXPECT_TRUE(MetricIs(std::string("winnow_rpcs_total{code=\"INVALID_ARGUMENT\",method=\"") +
                         method + "\"} 2"));
  }
}

TEST_F(GrpcService, ServesOnlyTheModelThatItHas) {
  v1::GenerateRequest request = Prompt("x", 1);
  request.set_model("other");
  v1::GenerateResponse response;
  EXPECT_EQ(Complete(request, &response).error_code(), grpc::StatusCode::NOT_FOUND);
  request.set_model("alphabet");
  EXPECT_TRUE(Complete(request, &response).ok());
}

TEST_F(GrpcService, ACancelledCallFreesItsBlocks) {
  model_.step_time = kSlowly;
  grpc::ClientContext call;
  const auto reader = generation_->Generate(&call, Prompt("x", kEndless));
  v1::GenerateResponse message;
  ASSERT_TRUE(reader->Read(&message));
  EXPECT_TRUE(MetricBecomes("winnow_kv_blocks{state=\"used\"} 1"));
  call.TryCancel();
  EXPECT_TRUE(PoolBecomesFree());
  while (reader->Read(&message)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(MetricBecomes("winnow_rpcs_total{code=\"CANCELLED\",method=\"Generate\"} 1"));
  EXPECT_TRUE(MetricIs("winnow_continuations_total{finish_reason=\"cancelled\"} 1"));
}

TEST_F(GrpcService, ACancelledUnaryCallFreesItsBlocks) {
  model_.step_time = kSlowly;
  grpc::ClientContext call;
  v1::GenerateResponse response;
  grpc::Status status;
  std::thread caller(
      [&] { status = generation_->Complete(&call, Prompt("x", kEndless), &response); });
  EXPECT_TRUE(MetricBecomes("winnow_requests_running 1"));
  call.TryCancel();
  caller.join();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(PoolBecomesFree());
}

TEST_F(GrpcService, AnExpiredCallFreesItsBlocksAndKeepsWhatCameInTime) {
  model_.step_time = kSlowly;
  int tokens = 0;
  int calls = 0;
  for (absl::Duration limit = absl::Milliseconds(100); tokens < 5; limit *= 2) {
    grpc::ClientContext call;
    call.set_deadline(absl::ToChronoTime(absl::Now() + limit));
    const auto reader = generation_->Generate(&call, Prompt("x", kEndless));
    v1::GenerateResponse message;
    for (tokens = 0; reader->Read(&message);) {
      for (const v1::Output& output : message.outputs()) tokens += output.token_ids_size();
    }
    ASSERT_EQ(reader->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
    EXPECT_TRUE(PoolBecomesFree());
    EXPECT_TRUE(MetricBecomes("winnow_rpcs_total{code=\"DEADLINE_EXCEEDED\",method=\"Generate\"} " +
                              std::to_string(++calls)));
  }
}

TEST_F(GrpcService, ASlowReaderPausesOnlyItsOwnRequest) {
  // Every token brings 20 others with it: 3900 tokens are far more than flow control lets through.
  v1::GenerateRequest request = Prompt("x", 3900);
  request.set_logprobs(true);
  request.set_top_logprobs(20);
  grpc::ClientContext slow_call;
  const auto slow = generation_->Generate(&slow_call, request);
  v1::GenerateResponse message;
  ASSERT_TRUE(slow->Read(&message));

  for (int i = 0; i < 3; ++i) {
    v1::GenerateResponse response;
    ASSERT_TRUE(Complete(Prompt("x", 2000), &response).ok());
    EXPECT_EQ(response.outputs(0).token_ids_size(), 2000);
  }
  // As many steps as the other requests had would have ended it, had it not been paused.
  EXPECT_TRUE(MetricBecomes("winnow_requests_running 1"));

  int tokens = message.outputs(0).token_ids_size();
  while (slow->Read(&message)) tokens += message.outputs(0).token_ids_size();
  EXPECT_TRUE(slow->Finish().ok());
  EXPECT_EQ(tokens, 3900);
  EXPECT_TRUE(PoolBecomesFree());
}

TEST_F(GrpcService, AFullQueueIsRefusedWithADelayToRetryAfter) {
  model_.step_time = kSlowly;
  grpc::ClientContext calls[4];
  std::vector<std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>>> readers;
  for (int i = 0; i < 4; ++i) {  // two run, two wait
    readers.push_back(generation_->Generate(&calls[i], Prompt("x", kEndless)));
    ASSERT_TRUE(MetricBecomes(i < 2 ? "winnow_requests_running " + std::to_string(i + 1)
                                    : "winnow_requests_waiting " + std::to_string(i - 1)));
  }
  v1::GenerateResponse response;
  const grpc::Status status = Complete(Prompt("x", 1), &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  google::rpc::Status details;
  ASSERT_TRUE(details.ParseFromString(status.error_details()));
  google::rpc::RetryInfo retry;
  ASSERT_TRUE(details.details(0).UnpackTo(&retry));
  EXPECT_GT(retry.retry_delay().seconds() + retry.retry_delay().nanos(), 0);
  for (auto& call : calls) call.TryCancel();
  EXPECT_TRUE(PoolBecomesFree());
}

TEST_F(GrpcService, DrainingFinishesWhatRunsAndRefusesTheRest) {
  model_.step_time = absl::Milliseconds(2);
  grpc::ClientContext call;
  const auto reader = generation_->Generate(&call, Prompt("x", 100));
  v1::GenerateResponse message;
  ASSERT_TRUE(reader->Read(&message));
  engine_.Drain(absl::InfiniteDuration());
  v1::GenerateResponse response;
  EXPECT_EQ(Complete(Prompt("x", 1), &response).error_code(), grpc::StatusCode::UNAVAILABLE);
  while (reader->Read(&message)) {
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(message.outputs(0).finish_reason(), v1::FINISH_REASON_LENGTH);
}

TEST_F(GrpcService, DrainingEndsWhatOutlivesTheLimit) {
  model_.step_time = kSlowly;
  grpc::ClientContext call;
  const auto reader = generation_->Generate(&call, Prompt("x", kEndless));
  v1::GenerateResponse message;
  ASSERT_TRUE(reader->Read(&message));
  engine_.Drain(absl::Milliseconds(50));
  while (reader->Read(&message)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(GrpcService, TheWatchdogTellsAHungStepFromALongRequest) {
  model_.step_time = kSlowly;
  grpc::ClientContext long_call;
  const auto reader = generation_->Generate(&long_call, Prompt("x", kEndless));
  v1::GenerateResponse message;
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(reader->Read(&message));
  EXPECT_TRUE(CheckEngine(engine_, absl::Minutes(1), absl::Now()).ok());
  model_.step_time = absl::Seconds(2);
  absl::Status status;
  const absl::Time limit = absl::Now() + kHangLimit;
  while ((status = CheckEngine(engine_, absl::Milliseconds(100), absl::Now())).ok() &&
         absl::Now() < limit) {
    absl::SleepFor(absl::Milliseconds(5));
  }
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(status.message()),
              testing::ContainsRegex("step of 0 prompt and 1 generated tokens; 1 requests running, "
                                     "0 waiting; [1-9][0-9]* of 256 KV blocks"));
  model_.step_time = absl::ZeroDuration();
  long_call.TryCancel();
  EXPECT_TRUE(PoolBecomesFree());
  EXPECT_TRUE(CheckEngine(engine_, absl::Minutes(1), absl::Now()).ok());
}

TEST_F(GrpcService, AFailedDeviceEndsCallsAndTheEnginesHealth) {
  model_.fails = true;
  v1::GenerateResponse response;
  EXPECT_EQ(Complete(Prompt("x", 5), &response).error_code(), grpc::StatusCode::UNAVAILABLE);
  const absl::Time limit = absl::Now() + kHangLimit;
  while (engine_.healthy() && absl::Now() < limit) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_FALSE(engine_.healthy());
  EXPECT_TRUE(absl::IsUnavailable(CheckEngine(engine_, absl::InfiniteDuration(), absl::Now())));
}

TEST_F(GrpcService, TokenizesAndDetokenizes) {
  auto stub = v1::TokenizerService::NewStub(channel_);
  v1::TokenizeRequest tokenize;
  tokenize.set_text("hi<eos>");
  v1::TokenizeResponse tokens;
  grpc::ClientContext first;
  ASSERT_TRUE(stub->Tokenize(&first, tokenize, &tokens).ok());
  EXPECT_THAT(tokens.token_ids(), ElementsAre(FakeTokenizer::kBos, 'h', 'i', FakeTokenizer::kEos));
  EXPECT_THAT(tokens.tokens(), ElementsAre("<bos>", "h", "i", "<eos>"));

  v1::DetokenizeRequest detokenize;
  *detokenize.mutable_token_ids() = tokens.token_ids();
  detokenize.add_token_ids(0xE2);  // half a character
  v1::DetokenizeResponse text;
  grpc::ClientContext second;
  ASSERT_TRUE(stub->Detokenize(&second, detokenize, &text).ok());
  EXPECT_EQ(text.text(), "hi\xEF\xBF\xBD");
  detokenize.add_token_ids(-1);
  grpc::ClientContext third;
  EXPECT_EQ(stub->Detokenize(&third, detokenize, &text).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(GrpcService, TextsThatTakeLongToTokenizeHoldUpNoOtherCall) {
  Notification may_go_on;
  tokenizer_.before_encode = [&](std::span<const TextSegment> segments, const auto& cancelled) {
    if (segments[0].text.size() < 10'000) return;
    while (!cancelled && !may_go_on.HasBeenNotified()) std::this_thread::yield();
  };
  const std::string text(19'000, 'x');  // 3,800 tokens at least: not too many
  auto tokenizer = v1::TokenizerService::NewStub(channel_);
  std::vector<std::thread> clients;
  std::atomic<int> answered = 0;
  for (int i = 0; i < 40; ++i) {
    clients.emplace_back([&, i] {
      grpc::ClientContext call;
      if (i % 2 == 0) {
        v1::TokenizeRequest request;
        request.set_text(text);
        v1::TokenizeResponse response;
        EXPECT_EQ(tokenizer->Tokenize(&call, request, &response).error_message(), "");
        EXPECT_EQ(response.token_ids_size(), 19'001);
      } else {
        v1::GenerateResponse response;
        EXPECT_EQ(generation_->Complete(&call, Prompt(text, 1), &response).error_code(),
                  grpc::StatusCode::INVALID_ARGUMENT);
      }
      ++answered;
    });
  }
  auto models = v1::ModelService::NewStub(channel_);
  for (int i = 0; i < 20; ++i) {
    grpc::ClientContext call, get;
    for (grpc::ClientContext* one : {&call, &get}) {
      one->set_deadline(absl::ToChronoTime(absl::Now() + kHangLimit));
    }
    v1::GenerateResponse response;
    ASSERT_EQ(generation_->Complete(&call, Prompt("x", 1), &response).error_message(), "");
    v1::Model model;
    ASSERT_EQ(models->GetModel(&get, {}, &model).error_message(), "");
  }
  EXPECT_EQ(answered, 0);
  may_go_on.Notify();
  for (std::thread& client : clients) client.join();
}

TEST_F(GrpcService, ACallThatIsCancelledWhileItsTextIsTokenizedEnds) {
  Notification in_encode;
  tokenizer_.before_encode = [&](auto, const auto& cancelled) {
    in_encode.Notify();
    while (!cancelled) std::this_thread::yield();
  };
  grpc::ClientContext call;
  grpc::Status status;
  std::thread caller([&] {
    v1::GenerateResponse response;
    status = generation_->Complete(&call, Prompt(std::string(19'000, 'x'), 1), &response);
  });
  in_encode.WaitForNotification();
  call.TryCancel();
  caller.join();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(MetricBecomes("winnow_rpcs_total{code=\"CANCELLED\",method=\"Complete\"} 1"));
}

TEST_F(GrpcService, AnAnswerThatWouldBeTooLargeIsRefusedBeforeItIsComputed) {
  v1::GenerateRequest request = Prompt("x", 3900);
  request.set_n(2);
  request.set_logprobs(true);
  request.set_top_logprobs(20);
  served_.mean_token_bytes = 20;
  v1::GenerateResponse response;
  const grpc::Status status = Complete(request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), testing::HasSubstr("Generate streams them"));
  EXPECT_TRUE(MetricIs("winnow_computed_tokens_total{kind=\"decode\"} 0"));
  grpc::ClientContext call;
  const auto reader = generation_->Generate(&call, request);
  EXPECT_TRUE(reader->Read(&response)) << "a stream has no such limit";
  call.TryCancel();
  EXPECT_TRUE(PoolBecomesFree());
}

TEST_F(GrpcService, AnAnswerThatBecomesTooLargeEndsTheCall) {
  served_.limits.answer_bytes = 2000;  // 600 tokens are expected to take 1800 bytes, and take 2400
  v1::GenerateResponse response;
  EXPECT_EQ(Complete(Prompt("x", 600), &response).error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_TRUE(MetricIs("winnow_rpcs_total{code=\"RESOURCE_EXHAUSTED\",method=\"Complete\"} 1"));
  EXPECT_EQ(Complete(Prompt("x", 300), &response).error_message(), "");
  EXPECT_EQ(response.outputs(0).token_ids_size(), 300);

  auto stub = v1::TokenizerService::NewStub(channel_);
  v1::TokenizeRequest tokenize;
  tokenize.set_text(std::string(500, 'x'));
  v1::TokenizeResponse tokens;
  grpc::ClientContext first, second;
  EXPECT_EQ(stub->Tokenize(&first, tokenize, &tokens).error_message(),
            "text: the answer takes more than the 2000 bytes that it may have; send it in pieces");
  v1::DetokenizeRequest detokenize;
  detokenize.mutable_token_ids()->Resize(2001, 'x');
  v1::DetokenizeResponse text;
  EXPECT_EQ(
      stub->Detokenize(&second, detokenize, &text).error_message(),
      "token_ids: the answer takes more than the 2000 bytes that it may have; send it in pieces");
}

TEST_F(GrpcService, DescribesTheModelAndItsLimits) {
  auto stub = v1::ModelService::NewStub(channel_);
  v1::Model model;
  grpc::ClientContext call;
  ASSERT_TRUE(stub->GetModel(&call, {}, &model).ok());
  EXPECT_EQ(model.name(), "alphabet");
  EXPECT_EQ(model.title(), "Alphabet");
  EXPECT_EQ(model.context_tokens(), kContext);
  EXPECT_EQ(model.trained_context_tokens(), 8000);
  EXPECT_EQ(model.vocab_size(), FakeTokenizer::kVocabSize);
  EXPECT_FALSE(model.chat());
  EXPECT_EQ(model.sampling().temperature(), 1);
  EXPECT_TRUE(model.sampling().has_repetition_penalty());
  EXPECT_EQ(model.limits().n(), 2);
  EXPECT_EQ(model.limits().top_logprobs(), 20);
  EXPECT_EQ(model.limits().answer_bytes(), 4 << 20);
}

TEST_F(GrpcService, AnAddressInUseIsAnError) {
  EXPECT_EQ(GrpcServer::Start({.address = server_->address()}, context_).status().code(),
            absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace winnow
