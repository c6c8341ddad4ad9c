// What a Hugging Face folder says about text, and folders that are broken.

#include "engine/text/checkpoint_text.h"

#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/model/temporary_folder.h"
#include "tests/engine/text/vocabulary_file.h"
#include "tests/engine/text/wire_writer.h"

namespace winnow {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

using Json = nlohmann::json;

/// A folder's files; null ones are not written.
struct Files {
  Json tokenizer = Json::parse(R"({
    "added_tokens": [{"id": 0, "content": "<s>", "special": true},
                     {"id": 4, "content": "<|end|>", "special": true},
                     {"id": 5, "content": "<tool>", "special": false, "normalized": false}],
    "normalizer": null, "pre_tokenizer": null, "decoder": {"type": "Fuse"},
    "model": {"type": "BPE", "vocab": {"<s>": 0, "a": 1, "b": 2, "ab": 3}, "merges": ["a b"]}})");
  Json config = Json::parse(R"({"bos_token": "<s>", "eos_token": {"content": "</s>"},
    "added_tokens_decoder": {"6": {"content": "</s>", "special": true}}, "add_bos_token": true,
    "chat_template": "{{ '<tool>' }}"})");
  Json generation = Json::parse(R"({"eos_token_id": [2, 6], "temperature": 0.6, "top_p": 0.9,
    "top_k": 20, "min_p": 0.05, "repetition_penalty": 1.05})");
  std::string model = {};       ///< tokenizer.model
  std::string jinja = {};       ///< chat_template.jinja
  std::string tool_jinja = {};  ///< additional_chat_templates/tool_use.jinja
};

absl::StatusOr<CheckpointText> Open(const Files& files, int64_t vocab_size = 8) {
  const TemporaryFolder folder;
  const auto write = [&folder](const char* name, const Json& json) {
    if (!json.is_null())
      folder.Write(name, json.is_string() ? json.get<std::string>() : json.dump());
  };
  write("tokenizer.json", files.tokenizer);
  write("tokenizer_config.json", files.config);
  write("generation_config.json", files.generation);
  if (!files.model.empty()) folder.Write("tokenizer.model", std::string_view(files.model));
  if (!files.jinja.empty()) folder.Write("chat_template.jinja", std::string_view(files.jinja));
  if (!files.tool_jinja.empty()) {
    std::filesystem::create_directory(folder.path("additional_chat_templates"));
    folder.Write("additional_chat_templates/tool_use.jinja", std::string_view(files.tool_jinja));
  }
  return CheckpointText::FromFolder(folder.path(), vocab_size);
}

/// A tokenizer.model of "<unk>", "<s>", "</s>", "a".
std::string SmallModel() {
  WireWriter model;
  const auto add = [&model](const std::string& piece, uint64_t type) {
    model.Message(1, WireWriter().Bytes(1, piece).Float(2, -1).Varint(3, type));
  };
  add("<unk>", 2);
  add("<s>", 3);
  add("</s>", 3);
  add("a", 1);
  return model.Message(2, WireWriter().Varint(3, 2)).Message(3, WireWriter().Varint(3, 0)).bytes();
}

TEST(CheckpointTextTest, AFolderGivesTokenizerTemplateEndsAndDefaults) {
  const auto text = Open({});
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(text->tokenizer->vocab_size(), 8);
  EXPECT_THAT(text->tokenizer->Encode("ab</s>", true, true), ElementsAre(0, 3, 6));
  EXPECT_EQ(text->tokenizer->bos_token(), 0);
  EXPECT_EQ(text->chat_template, "{{ '<tool>' }}");
  // Named by the generation's configuration, or known to end a turn.
  EXPECT_THAT(text->vocabulary.end_of_generation, ElementsAre(2, 4, 6));
  EXPECT_EQ(text->sampling, (SamplingDefaults{0.6, 0.9, 20, 0.05, 1.05}));
}

TEST(CheckpointTextTest, WhatTheTemplateWritesIsAMarkerAndNoPlainText) {
  const auto text = Open({});
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_THAT(text->tokenizer->Encode("<tool>", /*parse_special=*/true, false), ElementsAre(5));
  EXPECT_THAT(text->tokenizer->Encode("a<tool>", /*parse_special=*/false, false), ElementsAre(1));
}

TEST(CheckpointTextTest, BosIsAsTheConfigurationSays) {
  Files files;
  files.config["add_bos_token"] = false;
  EXPECT_THAT(Open(files)->tokenizer->Encode("a", false, true), ElementsAre(1));
  files.config = nullptr;
  EXPECT_THAT(Open(files)->tokenizer->Encode("a", false, true), ElementsAre(1));
}

TEST(CheckpointTextTest, RowsBeyondTheTokenizersStandForNothingAndAddedTokensBeyondThemAreLeftOut) {
  Files files;
  files.generation = nullptr;
  auto text = Open(files, 100);
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(text->tokenizer->vocab_size(), 100);
  EXPECT_EQ(text->tokenizer->TokenBytes(99, /*render_special=*/true), "");
  text = Open(files, 5);
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(text->tokenizer->vocab_size(), 5);
  EXPECT_THAT(text->tokenizer->Encode("</s>ab", true, true), ElementsAre(0, 3));
  EXPECT_EQ(Open(files, 3).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(CheckpointTextTest, ATokenizerModelServesWhereThereIsNoJson) {
  Files files;
  files.tokenizer = nullptr;
  files.model = SmallModel();
  files.config =
      Json::parse(R"({"added_tokens_decoder": {"4": {"content": "<|end|>", "special": true}}})");
  files.jinja = "jinja";
  const auto text = Open(files);
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_THAT(text->tokenizer->Encode("aa<|end|>", true, true), ElementsAre(1, 3, 3, 4));
  EXPECT_EQ(text->chat_template, "jinja");
  EXPECT_TRUE(text->tokenizer->IsEndOfGeneration(4));
}

TEST(CheckpointTextTest, SamplingMayBeSaidToBeGreedyAndEndsMayBeOne) {
  Files files;
  files.generation = {{"do_sample", false}, {"temperature", 0.6}, {"eos_token_id", 3}};
  const auto text = Open(files);
  ASSERT_TRUE(text.ok()) << text.status();
  SamplingDefaults greedy;
  greedy.temperature = 0;
  EXPECT_EQ(text->sampling, greedy);
  EXPECT_TRUE(text->tokenizer->IsEndOfGeneration(3));
}

TEST(CheckpointTextTest, OfSeveralTemplatesTheDefaultIsTakenAndThatForTools) {
  Files files;
  files.config["chat_template"] = Json::parse(
      R"([{"name": "tool_use", "template": "{{ '<tool>' }}"}, {"name": "rag", "template": "r"},
          {"name": "default", "template": "d"}])");
  const auto text = Open(files);
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(text->chat_template, "d");
  EXPECT_EQ(text->tool_use_template, "{{ '<tool>' }}");
  // What only the second writes is a marker, too.
  EXPECT_THAT(text->tokenizer->Encode("a<tool>", /*parse_special=*/false, false), ElementsAre(1));
}

TEST(CheckpointTextTest, TemplatesInFilesReplaceThoseOfTheConfiguration) {
  Files files;
  files.config["chat_template"] = Json::parse(
      R"([{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}])");
  files.jinja = "jinja";
  EXPECT_EQ(Open(files)->chat_template, "jinja");
  EXPECT_EQ(Open(files)->tool_use_template, std::nullopt);
  files.tool_jinja = "tools";
  EXPECT_EQ(Open(files)->chat_template, "jinja");
  EXPECT_EQ(Open(files)->tool_use_template, "tools");
}

struct BrokenFolder {
  const char* name;
  std::function<void(Files&)> edit;
  const char* message;
};

class BrokenFolderTest : public testing::TestWithParam<BrokenFolder> {};

TEST_P(BrokenFolderTest, IsRefusedNamingFileAndKey) {
  Files files;
  GetParam().edit(files);
  const auto text = Open(files);
  ASSERT_FALSE(text.ok());
  EXPECT_THAT(text.status().message(), HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(
    All, BrokenFolderTest,
    testing::Values(
        BrokenFolder{"NoTokenizer", [](Files& f) { f.tokenizer = nullptr; },
                     "has neither tokenizer.json nor tokenizer.model"},
        BrokenFolder{"NoJson", [](Files& f) { f.tokenizer = "{"; }, "tokenizer.json is no JSON"},
        BrokenFolder{"ConfigOfNoJson", [](Files& f) { f.config = "x"; },
                     "tokenizer_config.json is no JSON"},
        BrokenFolder{"ConfigOfAList", [](Files& f) { f.config = Json::array(); },
                     "tokenizer_config.json"},
        BrokenFolder{"AddsBosOfNoBool", [](Files& f) { f.config["add_bos_token"] = 1; },
                     "tokenizer_config.json: add_bos_token"},
        BrokenFolder{"BosOfNoToken", [](Files& f) { f.config["bos_token"] = "x"; },
                     "bos_token ('x') is no token"},
        BrokenFolder{"BosOfANumber", [](Files& f) { f.config["bos_token"] = 3; },
                     "tokenizer_config.json: bos_token"},
        BrokenFolder{"AddedAtNoNumber",
                     [](Files& f) {
                       f.config["added_tokens_decoder"] = {{"x", {{"content", "y"}}}};
                     },
                     "is at no number"},
        BrokenFolder{"AddedIsAnother",
                     [](Files& f) {
                       f.config["added_tokens_decoder"] = {{"1", {{"content", "y"}}}};
                     },
                     "added_tokens_decoder['1'] is 1, as 'a' is"},
        BrokenFolder{"AddedFarAway",
                     [](Files& f) {
                       f.config["added_tokens_decoder"] = {{"99999999", {{"content", "y"}}}};
                     },
                     "no token id below"},
        BrokenFolder{"TemplateOfANumber", [](Files& f) { f.config["chat_template"] = 1; },
                     "chat_template"},
        BrokenFolder{
            "TemplateOfNoName",
            [](Files& f) { f.config["chat_template"] = Json::parse(R"([{"template": "x"}])"); },
            "tokenizer_config.json: chat_template[0].name"},
        BrokenFolder{"EndOutside", [](Files& f) { f.generation["eos_token_id"] = 8; },
                     "generation_config.json: eos_token_id names 8"},
        BrokenFolder{"EndOfAString", [](Files& f) { f.generation["eos_token_id"] = "2"; },
                     "generation_config.json: eos_token_id"},
        BrokenFolder{"TopPAboveOne", [](Files& f) { f.generation["top_p"] = 1.5; },
                     "generation_config.json: top_p is 1.5, which is not above 0 and at most 1."},
        BrokenFolder{"TopPOfNothing", [](Files& f) { f.generation["top_p"] = 0; },
                     "generation_config.json: top_p is 0"},
        BrokenFolder{"NegativeTemperature", [](Files& f) { f.generation["temperature"] = -1; },
                     "temperature is -1"},
        BrokenFolder{"TemperatureFarAbove", [](Files& f) { f.generation["temperature"] = 1e300; },
                     "temperature is 1e+300, which is not from 0 to 100."},
        BrokenFolder{"MinPOfOne", [](Files& f) { f.generation["min_p"] = 1; },
                     "min_p is 1, which is not at least 0 and below 1."},
        BrokenFolder{"NegativeTopK", [](Files& f) { f.generation["top_k"] = -2; },
                     "generation_config.json: top_k is -2"},
        BrokenFolder{"PenaltyOfNothing", [](Files& f) { f.generation["repetition_penalty"] = 0; },
                     "repetition_penalty is 0, which is not from 0.01 to 10."}),
    [](const auto& info) { return info.param.name; });

TEST(GenerationConfigTest, MinusOneIsAllTokens) {
  EXPECT_EQ(ReadGenerationConfig(R"({"top_k": -1})")->sampling.top_k, 0);
}

TEST(CheckpointTextTest, AGgufFileGivesItsTemplates) {
  VocabularyFile file = ByteLevelVocabulary();
  file.Add("aa");
  file.scores.clear();
  file.merges = {"a a"};
  file.chat_template = "{{ messages }}";
  GgufWriter writer = file.Write();
  writer.String("tokenizer.chat_template.tool_use", "{{ tools }}");
  const TemporaryFile written(writer.Bytes());
  const auto gguf = GgufFile::Open(written.path());
  ASSERT_TRUE(gguf.ok()) << gguf.status();
  const auto text = CheckpointText::FromGguf(**gguf);
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(text->chat_template, "{{ messages }}");
  EXPECT_EQ(text->tool_use_template, "{{ tools }}");
  EXPECT_EQ(text->sampling, SamplingDefaults());
  EXPECT_THAT(text->tokenizer->Encode("aaa", false, false), ElementsAre(256, 'a'));
}

}  // namespace
}  // namespace winnow
