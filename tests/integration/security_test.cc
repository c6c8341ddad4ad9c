// Who is let in: TLS, client certificates, bearer tokens and their limits, on the real server.

#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "reflection.grpc.pb.h"
#include "tests/integration/certificates.h"
#include "tests/integration/client.h"
#include "tests/integration/server_process.h"
#include "winnow/v1/model.grpc.pb.h"
#include "winnow/v1/tokenizer.grpc.pb.h"

namespace winnow {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;

/// `winnow serve` with little memory.
std::unique_ptr<ServerProcess> StartSmall(std::vector<std::string> flags) {
  flags.insert(flags.end(), {"--max-context", "512", "--kv-tokens", "1024"});
  auto server = ServerProcess::Start(flags);
  EXPECT_TRUE(server.ok()) << server.status();
  return server.ok() ? *std::move(server) : nullptr;
}

/// The one line of a server that does not start.
std::string RefusalToStart(std::vector<std::string> flags) {
  flags.insert(flags.begin(), {"serve", "--model", DemoModelPath(), "--address", "127.0.0.1:0",
                               "--metrics-address", "127.0.0.1:0"});
  const CommandResult result = RunWinnow(flags);
  EXPECT_EQ(result.exit_status, 1) << result.output;
  const size_t begin = result.output.find("winnow serve: ");
  EXPECT_NE(begin, std::string::npos) << result.output;
  return result.output.substr(begin);
}

TEST(HardeningTest, TheBinaryIsBuiltWithWhatTheCompilerOffers) {
  const CommandResult elf = RunCommand({"readelf", "--wide", "--file-header", "--program-headers",
                                        "--dynamic", "--dyn-syms", WinnowCommand({})[0]});
  ASSERT_EQ(elf.exit_status, 0) << elf.output;
  EXPECT_THAT(elf.output, HasSubstr("DYN (Position-Independent Executable file)"));
  EXPECT_THAT(elf.output, HasSubstr("GNU_RELRO"));
  EXPECT_THAT(elf.output, ContainsRegex("FLAGS_1.*NOW"));
  EXPECT_THAT(elf.output, ContainsRegex("GNU_STACK .* RW "));
  EXPECT_THAT(elf.output, HasSubstr("__stack_chk_fail@"));
#if defined(NDEBUG) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  EXPECT_THAT(elf.output, HasSubstr("printf_chk@"));
#endif
}

class TlsTest : public testing::Test {
 protected:
  /// Whether a client who trusts `authority` and shows `client`'s certificate, if any, is served.
  static bool IsServed(const ServerProcess& server, const CertificateFiles& authority,
                       const CertificateFiles* client = nullptr) {
    grpc::SslCredentialsOptions options;
    options.pem_root_certs = Contents(authority.certificate);
    if (client != nullptr) {
      options.pem_cert_chain = Contents(client->certificate);
      options.pem_private_key = Contents(client->key);
    }
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    const auto stub = v1::GenerationService::NewStub(
        grpc::CreateCustomChannel(server.address(), grpc::SslCredentials(options), arguments));
    return Complete(*stub, Greedy("x", 1)).status.ok();
  }

  CertificateFolder folder_;
  const CertificateFiles authority_ = folder_.MakeAuthority("authority");
  const CertificateFiles other_authority_ = folder_.MakeAuthority("other-authority");
  const CertificateFiles server_ = folder_.Make("server", "IP:127.0.0.1", authority_);
};

TEST_F(TlsTest, ServesOverTlsAloneAndClientsCheckWhomTheyTalkTo) {
  const auto server = StartSmall({"--tls-cert", server_.certificate, "--tls-key", server_.key});
  ASSERT_NE(server, nullptr);
  EXPECT_TRUE(IsServed(*server, authority_));
  EXPECT_FALSE(IsServed(*server, other_authority_));
  const auto plaintext = v1::GenerationService::NewStub(Connect(server->address()));
  EXPECT_EQ(Complete(*plaintext, Greedy("x", 1)).status.error_code(),
            grpc::StatusCode::UNAVAILABLE);
}

TEST_F(TlsTest, ACommandIsServedWithTheAuthorityAndTheNameOfTheCertificate) {
  const auto server = StartSmall({"--tls-cert", server_.certificate, "--tls-key", server_.key});
  ASSERT_NE(server, nullptr);
  const std::vector<std::string> health = {"health", "--address", server->address()};
  const auto with = [](std::vector<std::string> command, const std::vector<std::string>& more) {
    command.insert(command.end(), more.begin(), more.end());
    return RunWinnow(command);
  };
  EXPECT_EQ(with(health, {}).exit_status, 1);
  EXPECT_EQ(with(health, {"--tls-ca", authority_.certificate}).exit_status, 0);
  EXPECT_EQ(with(health, {"--tls-ca", other_authority_.certificate}).exit_status, 1);
  EXPECT_EQ(
      with(health, {"--tls-ca", authority_.certificate, "--tls-server-name", "other"}).exit_status,
      1);
  const CommandResult generated =
      with({"generate", "--address", server->address(), "--prompt", "x", "--max-tokens", "1"},
           {"--tls-ca", authority_.certificate});
  EXPECT_EQ(generated.exit_status, 0) << generated.output;
}

TEST_F(TlsTest, MutualTlsLetsInOnlyClientsOfTheAuthority) {
  const CertificateFiles client = folder_.Make("client", "DNS:client", authority_);
  const CertificateFiles stranger = folder_.Make("stranger", "DNS:client", other_authority_);
  const auto server = StartSmall({"--tls-cert", server_.certificate, "--tls-key", server_.key,
                                  "--tls-client-ca", authority_.certificate});
  ASSERT_NE(server, nullptr);
  EXPECT_TRUE(IsServed(*server, authority_, &client));
  EXPECT_FALSE(IsServed(*server, authority_));
  EXPECT_FALSE(IsServed(*server, authority_, &stranger));
  const CommandResult health =
      RunWinnow({"health", "--address", server->address(), "--tls-ca", authority_.certificate,
                 "--tls-cert", client.certificate, "--tls-key", client.key});
  EXPECT_EQ(health.exit_status, 0) << health.output;
}

TEST_F(TlsTest, NewCertificatesAreTakenWithoutARestart) {
  const CertificateFiles successor = folder_.Make("successor", "IP:127.0.0.1", other_authority_);
  const auto server = StartSmall({"--tls-cert", server_.certificate, "--tls-key", server_.key});
  ASSERT_NE(server, nullptr);
  ASSERT_TRUE(IsServed(*server, authority_));
  Replace(server_.key, Contents(successor.key));
  Replace(server_.certificate, Contents(successor.certificate));
  EXPECT_TRUE(Becomes([&] { return IsServed(*server, other_authority_); })) << server->Log();
  EXPECT_FALSE(IsServed(*server, authority_));
}

TEST_F(TlsTest, AFileThatCannotServeStopsTheStartWithItsName) {
  const std::string& certificate = server_.certificate;
  const std::string& key = server_.key;
  EXPECT_THAT(RefusalToStart({"--tls-cert", certificate}), HasSubstr("--tls-key"));
  EXPECT_THAT(RefusalToStart({"--tls-client-ca", certificate}), HasSubstr("needs --tls-cert"));
  EXPECT_THAT(RefusalToStart({"--tls-cert", folder_.Path("none"), "--tls-key", key}),
              HasSubstr("can't read the file " + folder_.Path("none")));
  EXPECT_THAT(RefusalToStart({"--tls-cert", key, "--tls-key", key}),
              HasSubstr(key + " holds no certificate in PEM"));
  EXPECT_THAT(RefusalToStart({"--tls-cert", certificate, "--tls-key", certificate}),
              HasSubstr(certificate + " holds no unencrypted private key in PEM"));
  EXPECT_THAT(RefusalToStart({"--tls-cert", certificate, "--tls-key", authority_.key}),
              HasSubstr("does not belong to the certificate in " + certificate));
  EXPECT_THAT(RefusalToStart({"--tls-cert", certificate, "--tls-key", key, "--tls-client-ca", key}),
              HasSubstr(key + " holds no certificate in PEM"));
}

/// `name: sha256=...` with the digest by the command that docs/security.md gives.
std::string TokenLine(const std::string& name, const std::string& token,
                      const std::string& limits = "") {
  const CommandResult digest = RunCommand({"sha256sum"}, token);
  EXPECT_EQ(digest.exit_status, 0) << digest.output;
  return name + ": sha256=" + digest.output.substr(0, 64) + " " + limits + "\n";
}

void Authorize(const std::string& authorization, grpc::ClientContext& call) {
  if (!authorization.empty()) call.AddMetadata("authorization", authorization);
  call.set_deadline(absl::ToChronoTime(absl::Now() + kCallLimit));
}

/// The status of reflection's answer to "which services are there?".
grpc::Status Reflect(const std::shared_ptr<grpc::Channel>& channel,
                     const std::string& authorization) {
  const auto stub = grpc::reflection::v1alpha::ServerReflection::NewStub(channel);
  grpc::ClientContext call;
  Authorize(authorization, call);
  const auto stream = stub->ServerReflectionInfo(&call);
  grpc::reflection::v1alpha::ServerReflectionRequest request;
  request.set_list_services("");
  stream->Write(request);
  stream->WritesDone();
  grpc::reflection::v1alpha::ServerReflectionResponse response;
  const bool answered = stream->Read(&response);
  const grpc::Status status = stream->Finish();
  EXPECT_EQ(answered, status.ok());
  return status;
}

TEST(LogTest, HoldsNothingThatRequestsSayOrThatTheModelAnswers) {
  CertificateFolder folder;
  const std::string path = folder.Path("tokens");
  Replace(path, TokenLine("alice", "xyzzy-token"));
  const auto server = StartSmall({"--auth-tokens", path});  // logs all levels
  ASSERT_NE(server, nullptr);
  const auto channel = Connect(server->address());
  const auto generation = v1::GenerationService::NewStub(channel);
  const auto complete = [&](const v1::GenerateRequest& request,
                            const std::string& token = "xyzzy-token") {
    grpc::ClientContext call;
    Authorize("Bearer " + token, call);
    v1::GenerateResponse response;
    return std::pair(generation->Complete(&call, request, &response), response);
  };
  v1::GenerateRequest good = GreedyChat("xyzzy, tell me about bread.", 20);
  good.set_cache_salt("xyzzy-salt");
  good.mutable_stop()->add_strings("xyzzy-stop");
  const auto [status, answer] = complete(good);
  ASSERT_TRUE(status.ok()) << status.error_message();
  ASSERT_GT(answer.outputs(0).text().size(), 10u);
  EXPECT_TRUE(complete(Greedy("xyzzy is a word", 5)).first.ok());

  std::vector<v1::GenerateRequest> bad(5, good);
  bad[0].set_model("xyzzy-model");
  bad[1].mutable_chat()->mutable_messages(0)->set_role("xyzzy-role");
  bad[2].mutable_attention()->set_policy("xyzzy-policy");
  bad[3].set_text("xyzzy " + std::string(2000, '7'));
  bad[4].mutable_stop()->add_strings("xyzzy" + std::string(300, 'y'));
  for (const v1::GenerateRequest& request : bad) EXPECT_FALSE(complete(request).first.ok());
  EXPECT_FALSE(complete(good, "xyzzy-wrong").first.ok());
  const auto tokenizer = v1::TokenizerService::NewStub(channel);
  grpc::ClientContext call;
  Authorize("Bearer xyzzy-token", call);
  v1::TokenizeRequest text;
  text.set_text("xyzzy");
  v1::TokenizeResponse tokens;
  EXPECT_TRUE(tokenizer->Tokenize(&call, text, &tokens).ok());

  server->Terminate();
  server->Wait();
  EXPECT_THAT(server->Log(), HasSubstr("event=request"));
  EXPECT_THAT(server->Log(), HasSubstr("reason=attention.policy"));
  EXPECT_THAT(server->Log(), Not(HasSubstr("xyzzy")));
  EXPECT_THAT(server->Log(), Not(HasSubstr(answer.outputs(0).text().substr(0, 10))));
}

TEST(LogTest, NamesTheTraceThatACallBelongsTo) {
  const auto server = StartSmall({});
  ASSERT_NE(server, nullptr);
  const auto generation = v1::GenerationService::NewStub(Connect(server->address()));
  const auto complete = [&](const std::vector<std::string>& traceparents, int max_tokens) {
    grpc::ClientContext call;
    for (const std::string& value : traceparents) call.AddMetadata("traceparent", value);
    v1::GenerateResponse response;
    return generation->Complete(&call, Greedy("x", max_tokens), &response).error_code();
  };
  const std::string trace = "0af7651916cd43dd8448eb211c80319c";
  EXPECT_EQ(complete({"00-" + trace + "-b7ad6b7169203331-01"}, 1), grpc::StatusCode::OK);
  EXPECT_TRUE(server->Logs("trace_id=" + trace + " span_id=b7ad6b7169203331 code=OK"));
  EXPECT_EQ(complete({"00-" + trace + "-b7ad6b7169203332-01"}, 5000),
            grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_TRUE(server->Logs("span_id=b7ad6b7169203332 code=INVALID_ARGUMENT"));
  const std::string third = "00-" + trace + "-b7ad6b7169203333-01";
  EXPECT_EQ(complete({third, third}, 1), grpc::StatusCode::OK);
  EXPECT_EQ(complete({third + "x"}, 1), grpc::StatusCode::OK);
  server->Terminate();
  server->Wait();
  EXPECT_THAT(server->Log(), Not(HasSubstr("b7ad6b7169203333")));
}

TEST(LogTest, IsJsonWhateverClientsSend) {
  const auto server = StartSmall({"--log-format", "json"});
  ASSERT_NE(server, nullptr);
  grpc::GenericStub stub(Connect(server->address()));
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  const grpc::Slice slice(std::string("\x12\x02\xff\xfe"));
  const auto call = stub.PrepareUnaryCall(&context, "/winnow.v1.GenerationService/Complete",
                                          grpc::ByteBuffer(&slice, 1), &queue);
  call->StartCall();
  grpc::ByteBuffer answer;
  grpc::Status status;
  call->Finish(&answer, &status, nullptr);
  void* tag = nullptr;
  bool ok = false;
  queue.Next(&tag, &ok);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(ViolatedFields(status), testing::ElementsAre("text"));
  server->Terminate();
  server->Wait();
  const std::vector<std::string> lines = absl::StrSplit(server->Log(), '\n', absl::SkipEmpty());
  EXPECT_GE(lines.size(), 4u);
  for (const std::string& line : lines) EXPECT_TRUE(nlohmann::json::accept(line)) << line;
  EXPECT_THAT(server->Log(), HasSubstr("\"event\":\"refused\""));
}

TEST(ReflectionTest, CanBeOff) {
  const auto server = StartSmall({"--reflection=false"});
  ASSERT_NE(server, nullptr);
  const auto channel = Connect(server->address());
  EXPECT_EQ(Reflect(channel, "").error_code(), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_TRUE(Complete(*v1::GenerationService::NewStub(channel), Greedy("x", 1)).status.ok());
}

class TokenTest : public testing::Test {
 protected:
  void Start(const std::string& tokens, std::vector<std::string> flags = {}) {
    Replace(path_, tokens);
    flags.insert(flags.end(), {"--auth-tokens", path_});
    server_ = StartSmall(flags);
    ASSERT_NE(server_, nullptr);
    channel_ = Connect(server_->address());
    generation_ = v1::GenerationService::NewStub(channel_);
  }

  /// A call with this authorization header; with none if it is empty.
  grpc::Status Complete(const std::string& authorization, int max_tokens = 1) {
    grpc::ClientContext call;
    Authorize(authorization, call);
    v1::GenerateResponse response;
    return generation_->Complete(&call, Greedy("x", max_tokens), &response);
  }

  CertificateFolder folder_;
  const std::string path_ = folder_.Path("tokens");
  std::unique_ptr<ServerProcess> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::GenerationService::Stub> generation_;
};

TEST_F(TokenTest, OnlyAHolderOfATokenIsServed) {
  ASSERT_NO_FATAL_FAILURE(Start(TokenLine("alice", "wonderland") + TokenLine("bob", "builder")));
  EXPECT_TRUE(Complete("Bearer wonderland").ok());
  EXPECT_TRUE(Complete("bearer builder").ok());
  for (const char* refused :
       {"", "wonderland", "Bearer", "Bearer ", "Bearer wonderlan", "Bearer wonderland ",
        "Bearer wonderland builder", "Basic wonderland"}) {
    EXPECT_EQ(Complete(refused).error_code(), grpc::StatusCode::UNAUTHENTICATED) << refused;
  }
  grpc::ClientContext twice;
  twice.AddMetadata("authorization", "Bearer wonderland");
  Authorize("Bearer other", twice);
  v1::GenerateResponse response;
  EXPECT_EQ(generation_->Complete(&twice, Greedy("x", 1), &response).error_code(),
            grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(server_->Metric("winnow_rpcs_total{code=\"UNAUTHENTICATED\",method=\"Complete\"}"), 9);
  EXPECT_TRUE(server_->Logs("client=token:alice"));
}

TEST_F(TokenTest, EveryServiceButHealthWantsAToken) {
  ASSERT_NO_FATAL_FAILURE(Start(TokenLine("alice", "wonderland")));
  const std::string good = "Bearer wonderland";
  for (const std::string& authorization : {std::string(), std::string("Bearer other"), good}) {
    const auto expected =
        authorization == good ? grpc::StatusCode::OK : grpc::StatusCode::UNAUTHENTICATED;
    grpc::ClientContext generate, tokenize, detokenize, model;
    for (grpc::ClientContext* call : {&generate, &tokenize, &detokenize, &model}) {
      Authorize(authorization, *call);
    }
    const auto reader = generation_->Generate(&generate, Greedy("x", 1));
    v1::GenerateResponse message;
    while (reader->Read(&message)) {
    }
    EXPECT_EQ(reader->Finish().error_code(), expected);
    const auto tokenizer = v1::TokenizerService::NewStub(channel_);
    v1::TokenizeRequest text;
    text.set_text("x");
    v1::TokenizeResponse tokens;
    EXPECT_EQ(tokenizer->Tokenize(&tokenize, text, &tokens).error_code(), expected);
    v1::DetokenizeRequest ids;
    ids.add_token_ids(1);
    v1::DetokenizeResponse back;
    EXPECT_EQ(tokenizer->Detokenize(&detokenize, ids, &back).error_code(), expected);
    v1::Model described;
    EXPECT_EQ(v1::ModelService::NewStub(channel_)
                  ->GetModel(&model, v1::GetModelRequest(), &described)
                  .error_code(),
              expected);
    EXPECT_EQ(Reflect(channel_, authorization).error_code(), expected);
  }
  EXPECT_EQ(RunWinnow({"health", "--address", server_->address()}).exit_status, 0);
}

TEST_F(TokenTest, ACommandSendsTheTokenOfItsFile) {
  ASSERT_NO_FATAL_FAILURE(Start(TokenLine("alice", "wonderland")));
  const std::string token_file = folder_.Path("token");
  std::vector<std::string> generate = {
      "generate",     "--address", server_->address(), "--prompt", "x", "--json",
      "--max-tokens", "1",         "--token-file",     token_file};
  Replace(token_file, "wonderland\n");
  EXPECT_EQ(RunWinnow(generate).exit_status, 0);
  Replace(token_file, "other\n");
  const CommandResult refused = RunWinnow(generate);
  EXPECT_EQ(refused.exit_status, 1);
  EXPECT_THAT(refused.output, HasSubstr("bearer token"));
  Replace(token_file, "two words\n");
  EXPECT_THAT(RunWinnow(generate).output, HasSubstr("must hold one word"));
}

TEST_F(TokenTest, TokensChangeWithoutARestartAndABadFileChangesNothing) {
  ASSERT_NO_FATAL_FAILURE(Start(TokenLine("alice", "old")));
  ASSERT_TRUE(Complete("Bearer old").ok());
  Replace(path_, TokenLine("alice", "new"));
  EXPECT_TRUE(Becomes([&] { return Complete("Bearer new").ok(); })) << server_->Log();
  EXPECT_EQ(Complete("Bearer old").error_code(), grpc::StatusCode::UNAUTHENTICATED);

  Replace(path_, TokenLine("alice", "newest") + "hunter2\n");
  EXPECT_TRUE(server_->Logs("event=tokens_not_reloaded"));
  EXPECT_THAT(server_->Log(), HasSubstr("line 2"));
  EXPECT_THAT(server_->Log(), Not(HasSubstr("hunter2")));
  EXPECT_TRUE(Complete("Bearer new").ok());
  EXPECT_FALSE(Complete("Bearer newest").ok());
}

TEST_F(TokenTest, ATokenIsRevokedDuringTheLameDuckToo) {
  ASSERT_NO_FATAL_FAILURE(Start(TokenLine("alice", "old"), {"--lame-duck-seconds", "600"}));
  server_->Terminate();
  ASSERT_TRUE(server_->Logs("event=draining"));
  ASSERT_TRUE(Complete("Bearer old").ok());
  Replace(path_, TokenLine("alice", "new"));
  EXPECT_TRUE(Becomes([&] { return Complete("Bearer new").ok(); })) << server_->Log();
  EXPECT_EQ(Complete("Bearer old").error_code(), grpc::StatusCode::UNAUTHENTICATED);
}

TEST_F(TokenTest, AHolderOverALimitIsToldWhenToRetryAndOthersAreNot) {
  ASSERT_NO_FATAL_FAILURE(Start(TokenLine("one", "first", "requests=1") +
                                TokenLine("few", "second", "tokens-per-minute=6") +
                                TokenLine("free", "third")));
  grpc::ClientContext call;
  Authorize("Bearer first", call);
  const auto running = generation_->Generate(&call, Wide("x", 120));
  v1::GenerateResponse message;
  ASSERT_TRUE(running->Read(&message));
  const grpc::Status too_many = Complete("Bearer first");
  EXPECT_EQ(too_many.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(too_many.error_message(), HasSubstr("1 request"));
  EXPECT_GT(RetryDelay(too_many), absl::ZeroDuration());
  EXPECT_TRUE(Complete("Bearer third").ok());
  call.TryCancel();
  running->Finish();
  EXPECT_TRUE(Becomes([&] { return Complete("Bearer first").ok(); }));

  EXPECT_TRUE(Complete("Bearer second", 100).ok());
  const grpc::Status spent = Complete("Bearer second");
  EXPECT_EQ(spent.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(spent.error_message(), HasSubstr("6 tokens a minute"));
  EXPECT_GE(RetryDelay(spent), absl::Seconds(40));
  EXPECT_TRUE(Complete("Bearer third").ok());
}

TEST_F(TokenTest, TokensAreNotTakenInPlaintextFromAfarUnlessTheOperatorSaysSo) {
  Replace(path_, TokenLine("alice", "wonderland"));
  const std::vector<std::string> flags = {"--auth-tokens", path_, "--address", "0.0.0.0:0"};
  EXPECT_THAT(RefusalToStart(flags), HasSubstr("--auth-over-plaintext"));
  std::vector<std::string> explicit_flags = flags;
  explicit_flags.push_back("--auth-over-plaintext");
  EXPECT_NE(StartSmall(explicit_flags), nullptr);
  Replace(path_, "alice: wonderland\n");
  const std::string refusal = RefusalToStart({"--auth-tokens", path_});
  EXPECT_THAT(refusal, HasSubstr(path_ + ": line 1: "));
  EXPECT_THAT(refusal, Not(HasSubstr("wonderland")));
}

}  // namespace
}  // namespace winnow
