// What the server answers besides generated text: errors, tokens, descriptions, metrics, health.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "google/protobuf/descriptor.pb.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "reflection.grpc.pb.h"
#include "tests/integration/client.h"
#include "tests/integration/server_process.h"
#include "winnow/v1/model.grpc.pb.h"
#include "winnow/v1/tokenizer.grpc.pb.h"

namespace winnow {
namespace {

using ::testing::ElementsAreArray;
using ::testing::HasSubstr;
using ::testing::IsSupersetOf;
using ::testing::SizeIs;
using ::testing::UnorderedElementsAre;

namespace reflection = grpc::reflection::v1alpha;

class EndpointsTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    auto server = ServerProcess::Start(
        {"--max-context", "1024", "--kv-tokens", "4096", "--model-name", "demo"});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  static void TearDownTestSuite() { server_.reset(); }

  void SetUp() override {
    ASSERT_NE(server_, nullptr);
    channel_ = Connect(server_->address());
    generation_ = v1::GenerationService::NewStub(channel_);
    tokenizer_ = v1::TokenizerService::NewStub(channel_);
  }

  grpc::StatusCode CodeOf(const v1::GenerateRequest& request) {
    const Generation streamed = Generate(*generation_, request);
    EXPECT_EQ(Complete(*generation_, request).status.error_code(), streamed.status.error_code());
    return streamed.status.error_code();
  }

  v1::TokenizeResponse Tokenize(const v1::TokenizeRequest& request) {
    grpc::ClientContext call;
    v1::TokenizeResponse response;
    const grpc::Status status = tokenizer_->Tokenize(&call, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  }

  std::string Detokenize(const v1::TokenizeResponse& tokens, bool render_special) {
    grpc::ClientContext call;
    v1::DetokenizeRequest request;
    *request.mutable_token_ids() = tokens.token_ids();
    request.set_render_special(render_special);
    v1::DetokenizeResponse response;
    const grpc::Status status = tokenizer_->Detokenize(&call, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response.text();
  }

  static std::unique_ptr<ServerProcess> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::GenerationService::Stub> generation_;
  std::unique_ptr<v1::TokenizerService::Stub> tokenizer_;
};

std::unique_ptr<ServerProcess> EndpointsTest::server_;

TEST_F(EndpointsTest, AnInvalidRequestNamesAllFieldsAtFault) {
  v1::GenerateRequest request = Greedy("x", 5000);
  request.mutable_sampling()->set_temperature(-1);
  request.mutable_sampling()->set_top_p(0);
  request.mutable_stop()->add_strings("");
  request.set_n(17);
  request.set_top_logprobs(21);
  for (const Generation& refused :
       {Generate(*generation_, request), Complete(*generation_, request)}) {
    EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_THAT(ViolatedFields(refused.status),
                IsSupersetOf({"stop.max_tokens", "sampling.temperature", "sampling.top_p",
                              "stop.strings[0]", "n", "top_logprobs"}));
    EXPECT_THAT(refused.status.error_message(), HasSubstr("stop.max_tokens"));
  }
  EXPECT_EQ(CodeOf(v1::GenerateRequest()), grpc::StatusCode::INVALID_ARGUMENT);
  v1::GenerateRequest unknown_token;
  unknown_token.mutable_tokens()->add_ids(49152);
  EXPECT_EQ(CodeOf(unknown_token), grpc::StatusCode::INVALID_ARGUMENT);
  v1::GenerateRequest role = GreedyChat("x", 1);
  role.mutable_chat()->mutable_messages(0)->set_role("wizard");
  EXPECT_EQ(CodeOf(role), grpc::StatusCode::INVALID_ARGUMENT);
  std::string long_prompt;
  for (int i = 0; i < 1100; ++i) long_prompt += " word";
  EXPECT_THAT(ViolatedFields(Generate(*generation_, Greedy(long_prompt, 1)).status),
              testing::ElementsAre("text"));
}

TEST_F(EndpointsTest, AnAnswerThatNoClientWouldTakeIsRefusedBeforeItIsComputed) {
  const char* const computed = "winnow_computed_tokens_total{kind=\"decode\"}";
  ASSERT_TRUE(server_->BecomesIdle());
  const double before = server_->Metric(computed).value_or(-1);
  v1::GenerateRequest request = Greedy("x", 700);
  request.set_n(16);
  request.set_logprobs(true);
  request.set_top_logprobs(20);
  const Generation refused = Complete(*generation_, request);
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT)
      << refused.status.error_message();
  EXPECT_THAT(ViolatedFields(refused.status), testing::ElementsAre("stop.max_tokens"));
  EXPECT_EQ(server_->Metric(computed), before);
}

TEST_F(EndpointsTest, AMessageThatIsTooLargeIsRefused) {
  EXPECT_EQ(CodeOf(Greedy(std::string(5 << 20, 'x'), 1)), grpc::StatusCode::RESOURCE_EXHAUSTED);
}

TEST_F(EndpointsTest, AModelThatIsNotServedIsNotFound) {
  v1::GenerateRequest request = Greedy("x", 1);
  request.set_model("other");
  EXPECT_EQ(CodeOf(request), grpc::StatusCode::NOT_FOUND);
  request.set_model("demo");
  EXPECT_EQ(CodeOf(request), grpc::StatusCode::OK);
  v1::TokenizeRequest tokenize;
  tokenize.set_model("other");
  v1::TokenizeResponse tokens;
  grpc::ClientContext call;
  EXPECT_EQ(tokenizer_->Tokenize(&call, tokenize, &tokens).error_code(),
            grpc::StatusCode::NOT_FOUND);
  v1::GetModelRequest get;
  get.set_model("other");
  v1::Model model;
  grpc::ClientContext second;
  EXPECT_EQ(v1::ModelService::NewStub(channel_)->GetModel(&second, get, &model).error_code(),
            grpc::StatusCode::NOT_FOUND);
}

TEST_F(EndpointsTest, TokensTurnBackIntoTheirText) {
  for (const std::string text :
       {"Hello, world!", "Grüße aus Köln — 日本語 🙂\n\tif (x != 3) return;  ",
        "<|im_start|>user\nHi<|im_end|>\n"}) {
    v1::TokenizeRequest request;
    request.set_text(text);
    const v1::TokenizeResponse tokens = Tokenize(request);
    EXPECT_EQ(Detokenize(tokens, /*render_special=*/true), text);
    std::string joined;
    for (const std::string& bytes : tokens.tokens()) joined += bytes;
    EXPECT_EQ(joined, text);
  }
  v1::TokenizeRequest special;
  special.set_text("<|im_end|>");
  EXPECT_THAT(Tokenize(special).token_ids(), testing::ElementsAre(2));
  EXPECT_EQ(Detokenize(Tokenize(special), /*render_special=*/false), "");
  special.set_parse_special(false);
  EXPECT_THAT(Tokenize(special).token_ids(), SizeIs(testing::Gt(1)));
}

TEST_F(EndpointsTest, APromptOfTokensIsThePromptOfItsText) {
  v1::TokenizeRequest tokenize;
  *tokenize.mutable_chat() = GreedyChat("Name a colour.", 1).chat();
  const v1::TokenizeResponse tokens = Tokenize(tokenize);
  EXPECT_THAT(Detokenize(tokens, /*render_special=*/true), HasSubstr("user\nName a colour."));
  const Generation chat = Generate(*generation_, GreedyChat("Name a colour.", 8));
  v1::GenerateRequest by_tokens = Greedy("", 8);
  *by_tokens.mutable_tokens()->mutable_ids() = tokens.token_ids();
  EXPECT_THAT(Generate(*generation_, by_tokens).continuations,
              ElementsAreArray(chat.continuations));
  EXPECT_EQ(chat.summary.usage().prompt_tokens(), tokens.token_ids_size());
}

TEST_F(EndpointsTest, DescribesTheModel) {
  grpc::ClientContext call;
  v1::Model model;
  ASSERT_TRUE(
      v1::ModelService::NewStub(channel_)->GetModel(&call, v1::GetModelRequest(), &model).ok());
  EXPECT_EQ(model.name(), "demo");
  EXPECT_EQ(model.architecture(), "llama");
  EXPECT_EQ(model.vocab_size(), 49152);
  EXPECT_EQ(model.context_tokens(), 1024);
  EXPECT_EQ(model.trained_context_tokens(), 8192);
  EXPECT_TRUE(model.chat());
}

TEST_F(EndpointsTest, ReflectionListsAndDescribesTheServices) {
  const auto stub = reflection::ServerReflection::NewStub(channel_);
  grpc::ClientContext call;
  const auto stream = stub->ServerReflectionInfo(&call);
  reflection::ServerReflectionRequest request;
  request.set_list_services("");
  reflection::ServerReflectionResponse response;
  ASSERT_TRUE(stream->Write(request));
  ASSERT_TRUE(stream->Read(&response));
  std::vector<std::string> names;
  for (const auto& service : response.list_services_response().service()) {
    names.push_back(service.name());
  }
  EXPECT_THAT(names,
              UnorderedElementsAre("winnow.v1.GenerationService", "winnow.v1.TokenizerService",
                                   "winnow.v1.ModelService", "grpc.health.v1.Health",
                                   "grpc.reflection.v1alpha.ServerReflection"));
  for (const std::string& name : names) {
    request.set_file_containing_symbol(name);
    ASSERT_TRUE(stream->Write(request));
    ASSERT_TRUE(stream->Read(&response));
    EXPECT_TRUE(response.has_file_descriptor_response())
        << name << ": " << response.error_response().error_message();
    std::set<std::string> services;
    for (const std::string& bytes : response.file_descriptor_response().file_descriptor_proto()) {
      google::protobuf::FileDescriptorProto file;
      ASSERT_TRUE(file.ParseFromString(bytes));
      for (const auto& service : file.service()) {
        services.insert(file.package() + "." + service.name());
      }
    }
    EXPECT_TRUE(services.contains(name)) << name;
  }
  stream->WritesDone();
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(EndpointsTest, HealthKnowsEveryServiceAndNoOther) {
  const auto stub = grpc::health::v1::Health::NewStub(channel_);
  grpc::health::v1::HealthCheckRequest request;
  grpc::health::v1::HealthCheckResponse response;
  for (const char* service : {"", "winnow.v1.GenerationService", "winnow.v1.TokenizerService",
                              "winnow.v1.ModelService"}) {
    request.set_service(service);
    grpc::ClientContext call;
    ASSERT_TRUE(stub->Check(&call, request, &response).ok()) << service;
    EXPECT_EQ(response.status(), grpc::health::v1::HealthCheckResponse::SERVING);
  }
  request.set_service("other");
  grpc::ClientContext call;
  EXPECT_EQ(stub->Check(&call, request, &response).error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(EndpointsTest, TheMetricsPagePassesPrometheusOwnCheck) {
  ASSERT_TRUE(Generate(*generation_, Greedy("x", 3)).status.ok());
  ASSERT_TRUE(server_->BecomesIdle());
  const std::string page = server_->ScrapeMetrics();
  const auto metrics = ParseMetrics(page);
  ASSERT_TRUE(metrics.ok()) << metrics.status();
  EXPECT_GT(metrics->size(), 100u);
  EXPECT_GE(metrics->at("winnow_tokens_total{kind=\"generated\"}"), 3);
  EXPECT_GE(metrics->at("winnow_time_to_first_token_seconds_count"), 1);
  EXPECT_EQ(metrics->at("winnow_kv_blocks{state=\"free\"}"), 4096 / 32);
  const CommandResult promtool = RunCommand({"promtool", "check", "metrics"}, page);
  EXPECT_EQ(promtool.exit_status, 0) << "is promtool installed? " << promtool.output;
  EXPECT_EQ(promtool.output, "");
}

}  // namespace
}  // namespace winnow
