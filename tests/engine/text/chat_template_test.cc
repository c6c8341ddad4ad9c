// Prompts against what Jinja renders from templates like those that models publish
// (tests/golden/README.md).

#include "engine/text/chat_template.h"

#include <map>
#include <random>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "engine/text/jinja_outline.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/text/golden.h"
#include "tests/engine/text/utf8.h"

namespace winnow {
namespace {

using ::testing::HasSubstr;

const nlohmann::json& Golden() {
  static const nlohmann::json golden = LoadGolden("chat_templates.json");
  return golden;
}

std::vector<ChatMessage> Conversation(const std::string& name) {
  std::vector<ChatMessage> messages;
  for (const auto& message : Golden()["conversations"][name]) {
    messages.push_back({message[0], message[1]});
  }
  return messages;
}

std::string Jinja(const std::string& name) {
  for (const auto& known : Golden()["known"]) {
    if (known["name"] == name) return known["jinja"];
  }
  ADD_FAILURE() << "no template " << name;
  return "";
}

std::string Joined(const std::vector<TextSegment>& segments) {
  std::string text;
  for (const TextSegment& segment : segments) text += segment.text;
  return text;
}

ChatTemplate Known(const std::string& name) { return *ChatTemplate::FromJinja(Jinja(name)); }

TEST(ChatTemplateTest, KnownFamiliesAreRecognised) {
  const std::map<std::string, ChatFamily> families = {{"chatml", ChatFamily::kChatMl},
                                                      {"llama2", ChatFamily::kLlama2},
                                                      {"llama3", ChatFamily::kLlama3},
                                                      {"mistral", ChatFamily::kMistral},
                                                      {"vicuna", ChatFamily::kVicuna}};
  for (const auto& known : Golden()["known"]) {
    const auto chat = ChatTemplate::FromJinja(known["jinja"].get<std::string>());
    ASSERT_TRUE(chat.ok()) << known["name"] << ": " << chat.status();
    EXPECT_EQ(chat->family(), families.at(known["family"])) << known["name"];
  }
}

TEST(ChatTemplateTest, PromptsAreThoseThatJinjaRenders) {
  for (const auto& known : Golden()["known"]) {
    const auto chat = ChatTemplate::FromJinja(known["jinja"].get<std::string>());
    ASSERT_TRUE(chat.ok()) << known["name"];
    const std::string bos = known["bos_token"];
    for (const auto& [conversation, expected] : known["prompts"].items()) {
      if (expected.is_null()) continue;
      const auto prompt = chat->Render(Conversation(conversation));
      // A family may be stricter than the template: a prompt that models never saw helps nobody.
      if (!prompt.ok()) continue;
      EXPECT_EQ((chat->adds_bos() ? bos : "") + Joined(*prompt), expected)
          << known["name"] << ", " << conversation;
    }
  }
}

TEST(ChatTemplateTest, OrdinaryConversationsAreRendered) {
  for (const auto& known : Golden()["known"]) {
    const auto chat = ChatTemplate::FromJinja(known["jinja"].get<std::string>());
    ASSERT_TRUE(chat.ok()) << known["name"];
    for (const char* conversation : {"user", "three turns", "system and user",
                                     "system and two turns", "whitespace", "marks in contents"}) {
      if (known["prompts"][conversation].is_null()) continue;
      EXPECT_TRUE(chat->Render(Conversation(conversation)).ok())
          << known["name"] << ", " << conversation;
    }
  }
}

TEST(ChatTemplateTest, WhatATemplateRefusesIsRefused) {
  for (const auto& known : Golden()["known"]) {
    const auto chat = ChatTemplate::FromJinja(known["jinja"].get<std::string>());
    ASSERT_TRUE(chat.ok()) << known["name"];
    for (const auto& [conversation, expected] : known["prompts"].items()) {
      if (!expected.is_null()) continue;
      const auto prompt = chat->Render(Conversation(conversation));
      EXPECT_EQ(prompt.status().code(), absl::StatusCode::kInvalidArgument)
          << known["name"] << ", " << conversation;
    }
  }
}

TEST(ChatTemplateTest, ControlTokensAreParsedInWhatTheTemplateWritesAndNotInContents) {
  int systems = 0;
  for (const auto& known : Golden()["known"]) {
    const auto chat = ChatTemplate::FromJinja(known["jinja"].get<std::string>());
    ASSERT_TRUE(chat.ok()) << known["name"];
    auto prompt =
        chat->Render({{"system", "(s)"}, {"user", "(u)"}, {"assistant", "(a)"}, {"user", " (v) "}});
    if (!prompt.ok())
      prompt = chat->Render({{"user", "(s)(u)"}, {"assistant", "(a)"}, {"user", " (v) "}});
    ASSERT_TRUE(prompt.ok()) << known["name"];
    std::string contents, written;
    for (const auto& [text, parse_special] : *prompt) (parse_special ? written : contents) += text;
    std::erase(contents, ' ');
    const bool system_in_last_turn = contents == "(u)(a)(s)(v)";
    EXPECT_EQ(contents, system_in_last_turn ? contents : "(s)(u)(a)(v)") << known["name"];
    systems += system_in_last_turn;
    EXPECT_EQ(written.find('('), std::string::npos) << known["name"] << ": " << written;
  }
  EXPECT_GT(systems, 0);  // some templates do that, and it must hold for them too
}

TEST(ChatTemplateTest, UnknownTemplatesAreRefusedSayingWhatToDo) {
  for (const auto& unknown : Golden()["unknown"]) {
    const auto chat = ChatTemplate::FromJinja(unknown["jinja"].get<std::string>());
    ASSERT_EQ(chat.status().code(), absl::StatusCode::kUnimplemented) << unknown["name"];
    EXPECT_THAT(chat.status().message(), HasSubstr("tokenizer.chat_template"));
    EXPECT_THAT(chat.status().message(), HasSubstr("plain text"));
  }
}

TEST(ChatTemplateTest, BosIsAddedWhereTheTemplateHasIt) {
  EXPECT_FALSE(Known("SmolLM2").adds_bos());
  EXPECT_FALSE(Known("Qwen 2.5").adds_bos());
  EXPECT_TRUE(Known("Hermes 2 Pro").adds_bos());
  EXPECT_TRUE(Known("Llama 3").adds_bos());
  EXPECT_TRUE(Known("Mistral v3").adds_bos());
}

TEST(ChatTemplateTest, ErrorsNameTheMessageAtFault) {
  const ChatTemplate chat_ml = Known("SmolLM2");
  EXPECT_THAT(chat_ml.Render({}).status().message(), HasSubstr("messages is empty"));
  const auto tool = chat_ml.Render({{"user", "x"}, {"tool", "y"}});
  EXPECT_EQ(tool.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(tool.status().message(), HasSubstr("messages[1].role is 'tool'"));
  const ChatTemplate mistral = Known("Mistral v1");
  EXPECT_THAT(mistral.Render({{"user", "x"}, {"user", "y"}}).status().message(),
              HasSubstr("messages[1].role is 'user'"));
  EXPECT_THAT(mistral.Render({{"system", "x"}}).status().message(), HasSubstr("user message"));
  EXPECT_THAT(Known("Mixtral 8x7B").Render({{"system", "x"}, {"user", "y"}}).status().message(),
              HasSubstr("system message"));
}

TEST(ChatTemplateTest, ATemplateCutAnywhereIsRecognisedOrRefused) {
  for (const auto& known : Golden()["known"]) {
    const std::string jinja = known["jinja"];
    for (size_t length = 0; length < jinja.size(); ++length) {
      const auto chat = ChatTemplate::FromJinja(jinja.substr(0, length));
      if (chat.ok()) {
        EXPECT_TRUE(chat->Render({{"user", "x"}}).ok());
      } else {
        EXPECT_EQ(chat.status().code(), absl::StatusCode::kUnimplemented);
      }
    }
  }
}

TEST(JinjaOutlineTest, ReadsLiteralsAndTextButNotComments) {
  const JinjaOutline outline(
      "a{# 'b' #}{%- if x == \"c\\n\\\"\" -%}{{ 'd' + \"e\" }}{f}{% endif %}g");
  EXPECT_THAT(outline.literals(), testing::ElementsAre("a", "c\n\"", "d", "e", "{f}", "g"));
  EXPECT_TRUE(outline.Uses("'d'+'e'"));
  EXPECT_TRUE(outline.Spells("{f}"));
  EXPECT_FALSE(outline.Spells("b"));
}

TEST(JinjaOutlineTest, AnyBytesAreRead) {
  std::mt19937 rng(9);
  const std::vector<std::string> pieces = {"{{", "}}", "{%", "%}", "{#", "#}", "'",
                                           "\"", "\\", "{",  "}",  "n",  " ",  "[INST]"};
  for (int i = 0; i < 20000; ++i) {
    std::string jinja;
    for (int n = static_cast<int>(rng() % 12); n > 0; --n) {
      jinja += rng() % 8 == 0 ? RandomBytes(rng, 3) : pieces[rng() % pieces.size()];
    }
    const JinjaOutline outline(jinja);
    for (const std::string& literal : outline.literals()) ASSERT_LE(literal.size(), jinja.size());
    ChatTemplate::FromJinja(jinja).IgnoreError();
  }
}

}  // namespace
}  // namespace winnow
