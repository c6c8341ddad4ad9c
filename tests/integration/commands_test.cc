// The subcommands of the binary, run as users run them.

#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/cache/kv_pools.h"
#include "engine/model/config.h"
#include "engine/model/gguf.h"
#include "engine/model/kv_layout.h"
#include "engine/model/transformer.h"
#include "kernels/cpu/cpu_backend.h"
#include "tests/engine/model/gguf_writer.h"
#include "tests/engine/text/utf8.h"
#include "tests/integration/server_process.h"
#include "winnow/v1/model.grpc.pb.h"

namespace winnow {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

/// The first bytes of the demo model.
std::vector<std::byte> ModelHead(size_t bytes) {
  std::vector<std::byte> head(bytes);
  std::ifstream file(DemoModelPath(), std::ios::binary);
  EXPECT_TRUE(file.read(reinterpret_cast<char*>(head.data()), static_cast<int64_t>(bytes)));
  return head;
}

/// That a command failed, and said why in one line.
void ExpectOneLine(const CommandResult& result, const std::string& starts_with,
                   const std::string& has) {
  ASSERT_TRUE(result.exit_status.has_value());
  EXPECT_GT(*result.exit_status, 0);
  EXPECT_EQ(std::count(result.output.begin(), result.output.end(), '\n'), 1) << result.output;
  EXPECT_THAT(result.output, StartsWith(starts_with));
  EXPECT_THAT(result.output, HasSubstr(has));
}

TEST(InspectTest, DescribesTheDemoModel) {
  const CommandResult result =
      RunWinnow({"inspect", DemoModelPath(), "--json", "--context", "1000"});
  ASSERT_EQ(result.exit_status, 0) << result.output;
  const auto json = nlohmann::json::parse(result.output);
  EXPECT_EQ(json["architecture"], "llama");
  EXPECT_EQ(json["file_bytes"], std::filesystem::file_size(DemoModelPath()));
  EXPECT_EQ(json["parameters"], 134515008);  // as Hugging Face counts them
  EXPECT_EQ(json["tensors"], 272);
  EXPECT_EQ(json["sizes"]["layers"], 30);
  EXPECT_EQ(json["sizes"]["hidden"], 576);
  EXPECT_EQ(json["sizes"]["heads"], 9);
  EXPECT_EQ(json["sizes"]["kv_heads"], 3);
  EXPECT_EQ(json["sizes"]["tied_embeddings"], true);
  EXPECT_EQ(json["rope"]["base"], 100000);
  EXPECT_EQ(json["tokenizer"]["model"], "gpt2");
  EXPECT_EQ(json["tokenizer"]["vocab_size"], 49152);
  EXPECT_EQ(json["tokenizer"]["adds_bos"], false);
  EXPECT_EQ(json["tokenizer"]["eos"]["text"], "<|im_end|>");
  EXPECT_EQ(json["chat"]["state"], "renders");
  EXPECT_THAT(json["chat"]["refuses"].get<std::string>(), testing::StartsWith("a tool's result: "));
  EXPECT_EQ(json["memory"]["kv_bytes_per_token"], 2 * 30 * 3 * 64 * 2);
  EXPECT_EQ(json["memory"]["kv_bytes"], 1000 * 2 * 30 * 3 * 64 * 2);
  int64_t bytes = 0;
  for (const auto& type : json["tensor_types"]) bytes += type["bytes"].get<int64_t>();
  EXPECT_LT(bytes, json["file_bytes"]);
  EXPECT_GT(bytes, json["file_bytes"].get<int64_t>() * 9 / 10);
}

TEST(InspectTest, PredictsTheWeightsThatLoadingTakes) {
  const auto file = GgufFile::Open(DemoModelPath());
  ASSERT_TRUE(file.ok()) << file.status();
  const auto config = ModelConfig::FromGguf(**file);
  ASSERT_TRUE(config.ok()) << config.status();
  const auto backend = CreateCpuBackend({});
  const auto pools =
      KvPools::Allocate(*backend, KvLayout(*config, {.blocks = 1, .block_tokens = 32}));
  ASSERT_TRUE(pools.ok()) << pools.status();
  const auto transformer =
      Transformer::Load(**file, *config, *backend, **pools, {.max_step_tokens = 1});
  ASSERT_TRUE(transformer.ok()) << transformer.status();

  const CommandResult result = RunWinnow({"inspect", DemoModelPath(), "--json"});
  ASSERT_EQ(result.exit_status, 0) << result.output;
  const auto json = nlohmann::json::parse(result.output);
  const int64_t norms = (2 * config->layers + 1) * int64_t{config->hidden} * 4;
  EXPECT_EQ(json["memory"]["weight_bytes"], (*transformer)->weight_bytes() + norms);
}

TEST(InspectTest, ShowsATableToPeople) {
  const CommandResult result = RunWinnow({"inspect", DemoModelPath()});
  ASSERT_EQ(result.exit_status, 0) << result.output;
  for (const char* text : {"architecture llama", "134.52 M in 272 tensors", "Q4_1", "30, width 576",
                           "renders", "23040 bytes per token", "context of 8192 tokens"}) {
    EXPECT_THAT(result.output, HasSubstr(text));
  }
}

TEST(InspectTest, RefusesBadFilesAndFlagsWithOneLine) {
  const TemporaryFile in_metadata(ModelHead(100'000));
  const TemporaryFile in_tensors(ModelHead(5'000'000));
  const TemporaryFile empty({});
  for (const std::string& path : {in_metadata.path(), in_tensors.path(), empty.path(),
                                  std::string("/nowhere/model.gguf"), std::string("/")}) {
    ExpectOneLine(RunWinnow({"inspect", path}), "winnow inspect: ", path);
    ExpectOneLine(RunWinnow({"inspect", path, "--json"}), "winnow inspect: ", path);
  }
  ExpectOneLine(RunWinnow({"inspect"}), "winnow inspect: ", "MODEL is missing");
  ExpectOneLine(RunWinnow({"inspect", DemoModelPath(), "--context", "9000"}),
                "winnow inspect: ", "8192");
}

TEST(ServeTest, RefusesBadFlagsWithOneLine) {
  const std::string model = DemoModelPath();
  const TemporaryFile truncated(ModelHead(5'000'000));
  const std::string text = "max-context: 512\nmax-contexts: 512\n";
  const TemporaryFile config(std::as_bytes(std::span(text)));
  const struct {
    std::vector<std::string> flags;
    const char* has;
  } cases[] = {
      {{}, "--model is missing"},
      {{"--model", "/nowhere/model.gguf"}, "/nowhere/model.gguf"},
      {{"--model", truncated.path()}, "truncated"},
      {{"--model", model, "--modle", "x"}, "unknown flag --modle"},
      {{"--model", model, "--max-context", "many"}, "--max-context takes a whole number"},
      {{"--model", model, "--max-context", "9000"}, "8192"},
      {{"--model", model, "--max-context", "512", "--kv-tokens", "100"}, "--kv-tokens 100"},
      {{"--model", model, "--kv-tokens", "all"}, "--kv-tokens takes auto or a whole number"},
      {{"--model", model, "--kv-host-bytes", "1000"}, "--kv-host-bytes 1000 is less than"},
      {{"--model", model, "--kv-host-bytes", "1000000000000000"}, "the machine's memory"},
      {{"--model", model, "--kv-host-file", "/tmp/tier"}, "--kv-host-file needs --kv-host-bytes"},
      {{"--model", model, "--kv-host-bytes", "1000000", "--kv-host-file", "/nowhere/tier"},
       "/nowhere/tier"},
      {{"--model", model, "--memory-fraction", "2"}, "--memory-fraction takes a number"},
      {{"--model", model, "--device", "abacus"}, "--device takes cpu"},
      {{"--model", model, "--config", "/nowhere/config"}, "/nowhere/config"},
      {{"--model", model, "--config", config.path()}, ":2: unknown name \"max-contexts\""},
  };
  for (const auto& test : cases) {
    SCOPED_TRACE(test.has);
    std::vector<std::string> arguments = {"serve"};
    arguments.insert(arguments.end(), test.flags.begin(), test.flags.end());
    ExpectOneLine(RunWinnow(arguments), "winnow serve: ", test.has);
  }
}

/// The demo model's file, which calls itself something that is not UTF-8.
std::vector<std::byte> MisnamedModel() {
  std::vector<std::byte> bytes = ModelHead(std::filesystem::file_size(DemoModelPath()));
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), 100'000);
  constexpr std::string_view kKey = "general.name";
  // A key is followed by the type of its value, and a text by its length.
  const size_t value = text.find(kKey) + kKey.size() + sizeof(uint32_t) + sizeof(uint64_t);
  EXPECT_LT(value, text.size());
  bytes[value] = std::byte{0xE9};
  return bytes;
}

TEST(ServeTest, NamesThatAreNotUtf8AreRepaired) {
  const TemporaryFile file(MisnamedModel());
  const std::string link = (std::filesystem::path(testing::TempDir()) / "caf\xE9.gguf").string();
  std::filesystem::remove(link);
  std::filesystem::create_symlink(file.path(), link);
  const auto server =
      ServerProcess::Start({"--max-context", "512", "--kv-tokens", "512", "--model", link});
  std::filesystem::remove(link);
  ASSERT_TRUE(server.ok()) << server.status();
  const auto stub = v1::ModelService::NewStub(
      grpc::CreateChannel((*server)->address(), grpc::InsecureChannelCredentials()));
  grpc::ClientContext call;
  v1::Model model;
  const grpc::Status status = stub->GetModel(&call, v1::GetModelRequest(), &model);
  EXPECT_TRUE(status.ok()) << status.error_code() << ": " << status.error_message();
  EXPECT_EQ(model.name(), "caf\uFFFD");
  EXPECT_THAT(model.title(), StartsWith("\uFFFD"));
  const std::string page = (*server)->ScrapeMetrics();
  EXPECT_THAT(page, HasSubstr("model=\"caf\uFFFD\""));
  EXPECT_TRUE(IsValidUtf8(page));
  ExpectOneLine(RunWinnow({"serve", "--model", DemoModelPath(), "--model-name", "caf\xE9"}),
                "winnow serve: ", "--model-name must be UTF-8");
  const CommandResult inspected = RunWinnow({"inspect", file.path(), "--json"});
  EXPECT_EQ(inspected.exit_status, 0);
  EXPECT_TRUE(nlohmann::json::accept(inspected.output)) << inspected.output;
}

TEST(ServeTest, RefusesAnAddressInUse) {
  const auto server = ServerProcess::Start({"--max-context", "512", "--kv-tokens", "512"});
  ASSERT_TRUE(server.ok()) << server.status();
  const CommandResult result =
      RunWinnow({"serve", "--model", DemoModelPath(), "--max-context", "512", "--kv-tokens", "512",
                 "--address", (*server)->address(), "--metrics-address", "127.0.0.1:0",
                 "--log-level", "error"});
  EXPECT_EQ(result.exit_status, 1);
  EXPECT_THAT(result.output, HasSubstr("can't listen on " + (*server)->address()));
}

TEST(ClientTest, GenerateAndHealthTalkToTheServer) {
  const auto server = ServerProcess::Start({"--max-context", "512", "--kv-tokens", "512"});
  ASSERT_TRUE(server.ok()) << server.status();
  const CommandResult generated =
      RunWinnow({"generate", "--address", (*server)->address(), "--prompt",
                 "The capital of France is", "--max-tokens", "8", "--temperature", "0", "--json"});
  ASSERT_EQ(generated.exit_status, 0) << generated.output;
  const auto json = nlohmann::json::parse(generated.output);
  EXPECT_THAT(json["text"].get<std::string>(), HasSubstr("Paris"));
  EXPECT_EQ(json["finish_reason"], "length");
  EXPECT_EQ(json["token_ids"].size(), 8u);
  EXPECT_EQ(json["usage"]["generated_tokens"], 8);

  const CommandResult health = RunWinnow({"health", "--address", (*server)->address()});
  EXPECT_EQ(health.exit_status, 0);
  EXPECT_EQ(health.output, "SERVING\n");
  const std::string latin1 = "caf\xE9";
  const TemporaryFile file(std::as_bytes(std::span(latin1)));
  ExpectOneLine(
      RunWinnow({"generate", "--address", (*server)->address(), "--prompt-file", file.path()}),
      "winnow generate: ", file.path() + " is not UTF-8 from byte 3 on");
  ExpectOneLine(RunWinnow({"generate", "--address", (*server)->address(), "--prompt", latin1}),
                "winnow generate: ", "--prompt is not UTF-8");
  ExpectOneLine(RunWinnow({"generate", "--address", "127.0.0.1:1", "--prompt", "x"}),
                "winnow generate: ", "127.0.0.1:1");
  ExpectOneLine(RunWinnow({"generate", "--prompt", "x", "--tools", "missing.json"}),
                "winnow generate: ", "--tools is of a chat: it needs --chat");
  ExpectOneLine(RunWinnow({"health", "--address", "127.0.0.1:1"}),
                "winnow health: ", "127.0.0.1:1");
}

TEST(ClientTest, GenerateSendsToolsAndTemplateArguments) {
  const auto server = ServerProcess::Start({"--max-context", "512", "--kv-tokens", "512"});
  ASSERT_TRUE(server.ok()) << server.status();
  const auto generate = [&](const std::string& tools, const std::string& argument) {
    const TemporaryFile file(std::as_bytes(std::span(tools)));
    return RunWinnow({"generate", "--address", (*server)->address(), "--chat", "--prompt", "Hello",
                      "--tools", file.path(), "--template-argument", argument, "--max-tokens",
                      "1"});
  };
  const std::string tools =
      R"([{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}])";
  const CommandResult generated = generate(tools, "enable_thinking=false");
  EXPECT_EQ(generated.exit_status, 0) << generated.output;
  EXPECT_THAT(generate(tools, "messages=[]").output,
              HasSubstr("chat.template_arguments['messages']: is set by the server"));
  ExpectOneLine(generate(tools, "x"), "winnow generate: ", "must be NAME=VALUE");
  ExpectOneLine(generate("{}", "x=1"), "winnow generate: ", "no JSON list of functions");
  ExpectOneLine(generate("[{}]", "x=1"), "winnow generate: ", "function 0 has no name");
  EXPECT_THAT(generate(R"([{"name": ""}])", "x=1").output, HasSubstr("chat.tools[0].name"));
}

}  // namespace
}  // namespace winnow
