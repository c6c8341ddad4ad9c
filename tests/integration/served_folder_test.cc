// Hugging Face folders behind the binary, as users give them to it: served with their own ways of
// sampling and their templates, and refused where they are broken.

#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/engine/model/temporary_folder.h"
#include "tests/integration/client.h"
#include "tests/integration/server_process.h"
#include "winnow/v1/model.grpc.pb.h"
#include "winnow/v1/tokenizer.grpc.pb.h"

namespace winnow {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;
using Json = nlohmann::ordered_json;

std::string ReadBytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

/// A copy of a tiny model's folder (tests/golden/README.md), for a test to change.
class ModelFolder {
 public:
  explicit ModelFolder(const std::string& family) {
    std::filesystem::copy("tests/golden/families/" + family, folder_.path());
  }

  std::string path() const { return folder_.path(); }
  std::string Read(const std::string& name) const { return ReadBytes(folder_.path(name)); }
  void Write(const std::string& name, std::string_view bytes) const { folder_.Write(name, bytes); }
  void Remove(const std::string& name) const { folder_.Remove(name); }
  void Edit(const std::string& name, const std::function<void(Json&)>& change) const {
    Json json = Json::parse(Read(name));
    change(json);
    Write(name, json.dump());
  }

 private:
  TemporaryFolder folder_;
};

const Json& Golden() {
  static const Json golden = Json::parse(std::ifstream("tests/golden/chat_templates.json"));
  return golden;
}

/// A template of the golden data.
const Json& Known(const std::string& name) {
  const Json& known = Golden()["templates"];
  return *std::ranges::find_if(known, [&](const Json& one) { return one["name"] == name; });
}

/// What Jinja renders of a user's "Hello".
std::string Rendered(const Json& known, bool with_tool) {
  const Json wanted = {"user", with_tool ? Json("one tool") : Json(nullptr), nullptr};
  const Json& cases = Golden()["cases"];
  const auto found = std::ranges::find(cases, wanted);
  return known["prompts"][found - cases.begin()];
}

/// `winnow serve` with a folder, and what its clients ask.
class FolderServer {
 public:
  explicit FolderServer(const ModelFolder& folder, std::vector<std::string> flags = {}) {
    flags.insert(flags.end(), {"--model", folder.path(), "--model-name", "tiny"});
    auto server = ServerProcess::Start(flags);
    EXPECT_TRUE(server.ok()) << server.status();
    if (server.ok()) server_ = *std::move(server);
  }

  bool ok() const { return server_ != nullptr; }
  const ServerProcess& process() const { return *server_; }

  v1::Model GetModel() const {
    grpc::ClientContext call;
    v1::Model model;
    EXPECT_TRUE(
        v1::ModelService::NewStub(channel())->GetModel(&call, v1::GetModelRequest(), &model).ok());
    return model;
  }

  /// The tokens that a user's "Hello" and a tool become.
  v1::TokenizeResponse Tokenize(bool with_tool) const {
    v1::TokenizeRequest request;
    v1::ChatMessage* message = request.mutable_chat()->add_messages();
    message->set_role("user");
    message->set_content("Hello");
    for (const Json& tool : Golden()["tools"]["one tool"]) {
      if (!with_tool) break;
      v1::Tool* added = request.mutable_chat()->add_tools();
      added->set_name(tool["name"]);
      added->set_description(tool["description"]);
      added->set_parameters(tool["parameters"].dump());
    }
    grpc::ClientContext call;
    v1::TokenizeResponse response;
    const grpc::Status status =
        v1::TokenizerService::NewStub(channel())->Tokenize(&call, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  }

  /// The continuation of tokens; how it is sampled is left to the server but for `seed`.
  std::vector<int32_t> Continue(const v1::TokenizeResponse& prompt, uint64_t seed) const {
    return Continue(prompt, [seed](v1::SamplingParams& sampling) { sampling.set_seed(seed); });
  }
  std::vector<int32_t> ContinueGreedily(const v1::TokenizeResponse& prompt) const {
    return Continue(prompt, [](v1::SamplingParams& sampling) { sampling.set_temperature(0); });
  }

  /// What `winnow generate --chat --json` prints for "Hello", with these flags besides.
  Json Generate(const std::vector<std::string>& flags) const {
    std::vector<std::string> arguments = {"generate", "--address",    server_->address(),
                                          "--chat",   "--prompt",     "Hello",
                                          "--json",   "--max-tokens", "16"};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    const CommandResult result = RunWinnow(arguments);
    EXPECT_EQ(result.exit_status, 0) << result.output;
    return Json::parse(result.output, nullptr, /*allow_exceptions=*/false);
  }

 private:
  std::shared_ptr<grpc::Channel> channel() const {
    return grpc::CreateChannel(server_->address(), grpc::InsecureChannelCredentials());
  }

  std::vector<int32_t> Continue(const v1::TokenizeResponse& prompt,
                                const std::function<void(v1::SamplingParams&)>& sample) const {
    v1::GenerateRequest request;
    *request.mutable_tokens()->mutable_ids() = prompt.token_ids();
    request.mutable_stop()->set_max_tokens(16);
    sample(*request.mutable_sampling());
    const Generation generation = Complete(*v1::GenerationService::NewStub(channel()), request);
    EXPECT_TRUE(generation.status.ok()) << generation.status.error_message();
    return generation.continuations.at(0).tokens;
  }

  std::unique_ptr<ServerProcess> server_;
};

std::string Joined(const v1::TokenizeResponse& response) {
  std::string text;
  for (const std::string& token : response.tokens()) text += token;
  return text;
}

/// Prompts with tools take some 700 tokens of these vocabularies.
void AllowLongPrompts(const ModelFolder& folder) {
  folder.Edit("config.json", [](Json& config) { config["max_position_embeddings"] = 2048; });
}

TEST(ServedFolderTest, ChatsWithToolsAreRenderedAsJinjaDoes) {
  const ModelFolder folder("qwen3");
  AllowLongPrompts(folder);
  folder.Write("chat_template.jinja", Known("Qwen 3")["jinja"].get<std::string>());
  folder.Edit("generation_config.json", [](Json& config) { config["do_sample"] = false; });
  const FolderServer server(folder);
  ASSERT_TRUE(server.ok());
  EXPECT_TRUE(server.GetModel().chat());
  const v1::TokenizeResponse prompt = server.Tokenize(/*with_tool=*/true);
  EXPECT_EQ(Joined(prompt), Rendered(Known("Qwen 3"), /*with_tool=*/true));

  // The command sends the same conversation, and is answered as those tokens are.
  Json tools = Json::array();
  for (const Json& tool : Golden()["tools"]["one tool"]) {
    tools.push_back({{"type", "function"}, {"function", tool}});
  }
  const TemporaryFolder files;
  files.Write("tools.json", std::string_view(tools.dump()));
  const Json generated = server.Generate({"--tools", files.path("tools.json")});
  EXPECT_EQ(generated["usage"]["prompt_tokens"], prompt.token_ids_size());
  EXPECT_EQ(generated["token_ids"], Json(server.ContinueGreedily(prompt)));
}

TEST(ServedFolderTest, TheTemplateNamedToolUseIsForRequestsWithTools) {
  const ModelFolder folder("llama3");
  AllowLongPrompts(folder);
  const Json& known = Known("Hermes 2 Pro");
  folder.Edit("tokenizer_config.json", [&](Json& config) {
    config["chat_template"] = {{{"name", "default"}, {"template", known["jinja"]}},
                               {{"name", "tool_use"}, {"template", known["tool_use"]}}};
  });
  const FolderServer server(folder);
  ASSERT_TRUE(server.ok());
  for (const bool with_tool : {false, true}) {
    EXPECT_EQ(Joined(server.Tokenize(with_tool)), Rendered(known, with_tool));
  }
}

TEST(ServedFolderTest, IsSampledAsItsAuthorsSayUnlessARequestOrAFlagSaysOtherwise) {
  const ModelFolder folder("qwen3");
  folder.Edit("generation_config.json", [](Json& config) {
    config["do_sample"] = false;
    config["top_k"] = 20;
  });
  std::vector<int32_t> greedy, sampled;
  {
    const FolderServer server(folder);
    ASSERT_TRUE(server.ok());
    const v1::SamplingParams sampling = server.GetModel().sampling();
    EXPECT_EQ(sampling.temperature(), 0);
    EXPECT_EQ(sampling.top_k(), 20);
    EXPECT_EQ(sampling.top_p(), 0.9f);
    EXPECT_EQ(sampling.repetition_penalty(), 1);
    EXPECT_TRUE(server.process().Logs("event=sampling_defaults"));
    const v1::TokenizeResponse prompt = server.Tokenize(/*with_tool=*/false);
    greedy = server.ContinueGreedily(prompt);
    EXPECT_EQ(server.Continue(prompt, /*seed=*/1), greedy);
    EXPECT_EQ(server.Generate({"--seed", "1"})["token_ids"], Json(greedy));
    sampled = server.Generate({"--seed", "1", "--generation-config", "off"})["token_ids"]
                  .get<std::vector<int32_t>>();
    EXPECT_NE(sampled, greedy);
  }
  const FolderServer server(folder, {"--generation-config", "off"});
  ASSERT_TRUE(server.ok());
  EXPECT_EQ(server.GetModel().sampling().temperature(), 1);
  EXPECT_EQ(server.GetModel().sampling().top_k(), 0);
  const v1::TokenizeResponse prompt = server.Tokenize(/*with_tool=*/false);
  EXPECT_EQ(server.Continue(prompt, /*seed=*/1), sampled);
  EXPECT_EQ(server.ContinueGreedily(prompt), greedy);
}

TEST(ServedFolderTest, InspectShowsWindowsRopesAndSampling) {
  const auto inspect = [](const std::string& family) {
    const CommandResult result =
        RunWinnow({"inspect", "tests/golden/families/" + family, "--json"});
    EXPECT_EQ(result.exit_status, 0) << result.output;
    return Json::parse(result.output, nullptr, /*allow_exceptions=*/false);
  };
  const Json gemma = inspect("gemma3");
  EXPECT_EQ(gemma["rope"]["base"], 1e6);
  EXPECT_EQ(gemma["rope"]["scaling"], "linear, 8");
  EXPECT_EQ(gemma["windows"]["tokens"], 32);
  EXPECT_EQ(gemma["windows"]["layers"], Json({0, 1, 2, 3, 4, 6}));
  EXPECT_EQ(gemma["windows"]["rope"]["base"], 1e4);
  EXPECT_EQ(gemma["windows"]["rope"]["scaling"], "none");
  EXPECT_EQ(gemma["sampling"], Json({{"temperature", 0.6}, {"top_p", 0.9}}));
  EXPECT_EQ(inspect("llama")["windows"], nullptr);
  // A folder and its GGUF file say the same.
  for (const char* family :
       {"gemma2", "gemma3", "llama3", "llama_linear", "llama_yarn", "mistral", "phi3", "qwen3"}) {
    const Json folder = inspect(family);
    const Json gguf = inspect(absl::StrCat(family, ".gguf"));
    for (const char* what : {"rope", "windows"}) {
      EXPECT_EQ(folder[what], gguf[what]) << family;
    }
  }
  const CommandResult table = RunWinnow({"inspect", "tests/golden/families/gemma3"});
  for (const char* text : {"base 1e+06, scaling linear, 8", "of 32 tokens in 6 of 7 layers",
                           "base 10000, scaling none", "temperature 0.6, top_p 0.9"}) {
    EXPECT_THAT(table.output, HasSubstr(text));
  }
}

/// That a command failed, and said why in one line that a terminal shows as it is.
void ExpectOneLine(const CommandResult& result, const std::string& begin) {
  EXPECT_EQ(result.exit_status, 1);
  EXPECT_THAT(result.output, StartsWith(begin));
  EXPECT_EQ(std::ranges::count_if(result.output, [](char c) { return c >= 0 && c < ' '; }), 1)
      << result.output;
  EXPECT_THAT(result.output, testing::EndsWith("\n"));
  EXPECT_LT(result.output.size(), 2000u);
}

TEST(BrokenFolderTest, ServeEndsWithOneSentenceThatNamesTheFile) {
  const std::string second = "model-00002-of-00002.safetensors";
  const auto set_header = [&second](const ModelFolder& folder, std::string_view header,
                                    uint64_t size) {
    std::string bytes(reinterpret_cast<const char*>(&size), sizeof(size));
    folder.Write(second, bytes.append(header));
  };
  const struct {
    const char* name;
    std::function<void(const ModelFolder&)> damage;
    std::string has;
  } cases[] = {
      {"missing shard", [&](const ModelFolder& folder) { folder.Remove(second); }, second},
      {"truncated shard",
       [&](const ModelFolder& folder) {
         const std::string bytes = folder.Read(second);
         folder.Write(second, std::string_view(bytes).substr(0, bytes.size() - 1));
       },
       second},
      {"wrong shape",
       [&](const ModelFolder& folder) {
         folder.Edit("config.json", [](Json& config) { config["intermediate_size"] = 48; });
       },
       "blk.0.ffn_gate.weight has the shape [64, 64]"},
      {"header longer than the file",
       [&](const ModelFolder& folder) { set_header(folder, "{}", uint64_t{1} << 60); }, second},
      {"header nested without end",
       [&](const ModelFolder& folder) {
         const std::string deep(1 << 20, '[');
         set_header(folder, deep, deep.size());
       },
       second},
      {"tensor beyond the file",
       [&](const ModelFolder& folder) {
         const std::string header =
             R"({"x":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,16]}})";
         set_header(folder, header, header.size());
       },
       second},
      {"no tokenizer", [](const ModelFolder& folder) { folder.Remove("tokenizer.json"); },
       "tokenizer.json"},
      {"control characters in what is quoted",
       [](const ModelFolder& folder) {
         folder.Edit("tokenizer_config.json",
                     [](Json& config) { config["bos_token"] = "a\x1b[2J\nb"; });
       },
       R"(bos_token ('a\x1b[2J\x0ab') is no token)"},
      {"sampling out of range",
       [](const ModelFolder& folder) {
         folder.Edit("generation_config.json", [](Json& config) { config["top_p"] = 1.5; });
       },
       "generation_config.json: top_p is 1.5"}};
  for (const auto& one : cases) {
    SCOPED_TRACE(one.name);
    const ModelFolder folder("llama");
    one.damage(folder);
    const CommandResult result = RunWinnow({"serve", "--model", folder.path()});
    ExpectOneLine(result, "winnow serve: ");
    EXPECT_THAT(result.output, HasSubstr(one.has));
  }
}

/// One of many ways to damage a file, near its beginning more often than not: there is what is
/// read.
std::string Damaged(std::string bytes, std::mt19937& random) {
  const auto below = [&random](size_t n) { return n == 0 ? 0 : random() % n; };
  const size_t at = below(random() % 4 == 0 ? bytes.size() : std::min<size_t>(bytes.size(), 2000));
  switch (random() % 6) {
    case 0:
      return bytes.substr(0, at);
    case 1:
      bytes[at] ^= static_cast<char>(1 << random() % 8);
      return bytes;
    case 2:
      for (size_t i = at; i < std::min(at + 8, bytes.size()); ++i) bytes[i] = '\xFF';
      return bytes;
    case 3:
      return bytes.erase(at, 1 + below(40));
    case 4:
      return bytes.insert(at, bytes.substr(below(bytes.size()), 1 + below(40)));
    default: {  // another number
      const size_t digit = bytes.find_first_of("0123456789", at);
      if (digit != std::string::npos) bytes.insert(digit, std::to_string(random()));
      return bytes;
    }
  }
}

TEST(BrokenFolderTest, TwoHundredDamagedFoldersAreRefusedWithOneSentenceOrAreModels) {
  const ModelFolder folder("llama");
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder.path())) {
    names.push_back(entry.path().filename().string());
  }
  std::ranges::sort(names);
  std::mt19937 random(17);
  int refused = 0;
  for (int i = 0; i < 200; ++i) {
    const std::string& name = names[i % names.size()];
    SCOPED_TRACE(absl::StrCat("mutation ", i, " of ", name));
    const std::string whole = folder.Read(name);
    folder.Write(name, Damaged(whole, random));
    const CommandResult result = RunWinnow({"inspect", folder.path(), "--json"});
    folder.Write(name, whole);
    if (result.exit_status == 0) {
      EXPECT_TRUE(Json::accept(result.output)) << result.output;
    } else {
      ExpectOneLine(result, "winnow inspect: ");
      ++refused;
    }
  }
  EXPECT_GT(refused, 100);
}

}  // namespace
}  // namespace winnow
