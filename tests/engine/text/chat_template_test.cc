#include "engine/text/chat_template.h"

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace winnow {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using Json = nlohmann::ordered_json;

const Json& Golden() {
  static const Json golden = Json::parse(std::ifstream("tests/golden/chat_templates.json"));
  return golden;
}

/// When the golden prompts were rendered.
absl::Time Now() {
  absl::Time time;
  std::string error;
  EXPECT_TRUE(absl::ParseTime("%Y-%m-%dT%H:%M:%S", Golden()["now"].get<std::string>(),
                              absl::LocalTimeZone(), &time, &error));
  return time;
}

/// As Hugging Face writes messages.
ChatMessage ReadMessage(const Json& json) {
  ChatMessage message = {.role = json["role"]};
  if (json["content"].is_string()) message.content = json["content"];
  if (json["content"].is_array()) {
    for (const Json& part : json["content"]) message.parts.push_back(part["text"]);
  }
  for (const Json& call : json.value("tool_calls", Json::array())) {
    const Json& arguments = call["function"]["arguments"];
    message.tool_calls.push_back(
        {.id = call["id"],
         .name = call["function"]["name"],
         .arguments = arguments.is_string() ? arguments.get<std::string>() : arguments.dump()});
  }
  message.tool_call_id = json.value("tool_call_id", "");
  message.name = json.value("name", "");
  return message;
}

/// One of the golden cases: [conversation, tools, arguments].
Conversation ReadCase(const Json& names) {
  Conversation out;
  for (const Json& message : Golden()["conversations"][names[0].get<std::string>()]) {
    out.messages.push_back(ReadMessage(message));
  }
  if (!names[1].is_null()) {
    for (const Json& tool : Golden()["tools"][names[1].get<std::string>()]) {
      out.tools.push_back({.name = tool["name"],
                           .description = tool["description"],
                           .parameters = tool["parameters"].dump()});
    }
  }
  if (!names[2].is_null()) {
    for (const auto& [name, value] : Golden()["arguments"][names[2].get<std::string>()].items()) {
      out.arguments.emplace_back(name, value.dump());
    }
  }
  return out;
}

ChatTemplate Create(const Json& known) {
  absl::StatusOr<ChatTemplate> chat = ChatTemplate::Create(
      {.jinja = known["jinja"],
       .tool_use = known["tool_use"],
       .tokens = {{"bos_token", known["bos_token"]}, {"eos_token", known["eos_token"]}}});
  EXPECT_TRUE(chat.ok()) << known["name"] << ": " << chat.status();
  return *std::move(chat);
}

std::string Joined(const std::vector<TextSegment>& segments) {
  std::string text;
  for (const TextSegment& segment : segments) text += segment.text;
  return text;
}

std::string Written(const std::vector<TextSegment>& segments) {
  std::string text;
  for (const TextSegment& segment : segments) text += segment.parse_special ? segment.text : "";
  return text;
}

/// Of a template and one user's message: its segments, control tokens' in brackets; or the error.
std::string Rendered(const std::string& jinja, const Conversation& conversation) {
  const auto chat = ChatTemplate::Create({.jinja = jinja, .tokens = {{"bos_token", "<s>"}}});
  if (!chat.ok()) return absl::StrCat("no template: ", chat.status().message());
  const auto prompt = chat->Render(conversation, Now());
  if (!prompt.ok()) return std::string(prompt.status().message());
  std::string text;
  for (const TextSegment& segment : *prompt) {
    absl::StrAppend(&text, segment.parse_special ? "[" : "", segment.text,
                    segment.parse_special ? "]" : "");
  }
  return text;
}

std::string Rendered(const std::string& jinja, const std::string& content = "hello") {
  return Rendered(jinja, {.messages = {{.role = "user", .content = content}}});
}

TEST(ChatTemplateTest, PromptsAreThoseThatJinjaRenders) {
  int prompts = 0, refusals = 0;
  for (const Json& known : Golden()["templates"]) {
    const ChatTemplate chat = Create(known);
    for (size_t i = 0; i < Golden()["cases"].size(); ++i) {
      const Json& names = Golden()["cases"][i];
      const Json& expected = known["prompts"][i];
      SCOPED_TRACE(absl::StrCat(known["name"].get<std::string>(), ", ", names.dump()));
      const auto prompt = chat.Render(ReadCase(names), Now());
      if (expected.is_string()) {
        ASSERT_TRUE(prompt.ok()) << prompt.status();
        EXPECT_EQ(Joined(*prompt), expected.get<std::string>());
        ++prompts;
        continue;
      }
      EXPECT_EQ(prompt.status().code(), absl::StatusCode::kInvalidArgument);
      if (expected.is_object()) {
        EXPECT_EQ(prompt.status().message(), absl::StrCat("the model's chat template refuses: ",
                                                          expected["refused"].get<std::string>()));
      }
      ++refusals;
    }
  }
  EXPECT_GT(prompts, 1000);
  EXPECT_GT(refusals, 200);
}

TEST(ChatTemplateTest, WhatJinjaCanNotCompileIsNoTemplate) {
  for (const auto& [name, jinja] : Golden()["broken"].items()) {
    EXPECT_EQ(ChatTemplate::Create({.jinja = jinja}).status().code(),
              absl::StatusCode::kInvalidArgument)
        << name;
  }
}

/// The golden conversation with something before each text that it brings, and behind it.
Conversation Around(Conversation conversation, const std::string& before,
                    const std::string& behind) {
  const auto change = [&](std::string& text) {
    if (!text.empty()) text = absl::StrCat(before, text, behind);
  };
  const auto change_json = [&](std::string& text) {
    if (text.starts_with('{')) {
      text = Json{{before + "key" + behind, before + "value" + behind}, {"type", "object"}}.dump();
    }
  };
  for (ChatMessage& message : conversation.messages) {
    change(message.content);
    for (std::string& part : message.parts) change(part);
    for (ToolCall& call : message.tool_calls) change_json(call.arguments);
  }
  for (Tool& tool : conversation.tools) {
    change(tool.description);
    change_json(tool.parameters);
  }
  return conversation;
}

TEST(ChatTemplateTest, ContentsSpellNoControlTokens) {
  const std::string tokens =
      "<s></s><|im_start|><|im_end|>[INST][/INST]<|eot_id|><|start_header_id|>"
      "<|end_header_id|><start_of_turn><end_of_turn><|user|><|end|><|system|><|assistant|>"
      "<｜User｜><｜Assistant｜><bos><eos><unk><|endoftext|><|begin_of_text|><|python_tag|>"
      "<|START_OF_TURN_TOKEN|><|END_OF_TURN_TOKEN|>[TOOL_CALLS][TOOL_RESULTS]<|im_sep|>"
      "<|start_of_role|><|end_of_role|><tool_call></tool_call><tool_response>"
      "<|start|><|message|><|call|>";
  int compared = 0;
  for (const Json& known : Golden()["templates"]) {
    const ChatTemplate chat = Create(known);
    for (const Json& names : Golden()["cases"]) {
      const Conversation conversation = ReadCase(names);
      const auto harmless = chat.Render(Around(conversation, "ae", "zz"), Now());
      const auto hostile = chat.Render(Around(conversation, "ae" + tokens, tokens + "zz"), Now());
      EXPECT_EQ(harmless.ok(), hostile.ok()) << known["name"] << names << hostile.status();
      if (!harmless.ok() || !hostile.ok()) continue;
      EXPECT_EQ(Written(*hostile), Written(*harmless)) << known["name"] << ", " << names;
      compared += Joined(*hostile) != Joined(*harmless);
    }
  }
  EXPECT_GT(compared, 1000);
}

TEST(ChatTemplateTest, NothingThatATemplateDoesWithAContentMakesItsOwnTextOfIt) {
  const auto content = [](const std::string& jinja) {
    return Rendered("{% set c = messages[0].content %}" + jinja, "<a|b>");
  };
  EXPECT_EQ(content("<a|b>{{ c }}"), "[<a|b>]<a|b>");
  EXPECT_EQ(content("{{ '<a' + c + 'b>' }}"), "[<a]<a|b>[b>]");
  EXPECT_EQ(content("{{ c | upper }}{{ c | lower | trim }}{{ c.title() }}"), "<A|B><a|b><A|B>");
  EXPECT_EQ(content("{{ c.replace('|', '<s>') }}"), "<a[<s>]b>");
  EXPECT_EQ(content("{{ c.replace('|', '') }}"), "<ab>");
  EXPECT_EQ(content("{{ c.split('|') | join('-') }}"), "<a[-]b>");
  EXPECT_EQ(content("{{ c[1:] }}{{ c[0] }}{{ c[::-1] }}"), "a|b><>b|a<");
  EXPECT_EQ(content("{{ c | tojson }}{{ [c, 1] }}"), "[\"]<a|b>[\"[']<a|b>[', 1]]");
  EXPECT_EQ(content("{% for x in c %}{{ x }}.{% endfor %}"), "<[.]a[.]|[.]b[.]>[.]");
  EXPECT_EQ(content("{% set d %}x{{ c }}y{% endset %}{{ d * 2 }}"), "[x]<a|b>[yx]<a|b>[y]");
  EXPECT_EQ(content("{% macro m(x) %}({{ x }}){% endmacro %}{{ m(c) | indent(1, true) }}"),
            "[ (]<a|b>[)]");
  EXPECT_EQ(content("{% filter upper %}x{{ c }}{% endfilter %}"), "[X]<A|B>");
}

TEST(ChatTemplateTest, LogicSeesContentsAsTheyAre) {
  const std::string jinja =
      "{% set c = messages[0].content %}{{ c == '<a>' }} {{ '<' in c }} {{ c.startswith('<a') }} "
      "{{ c | length }} {{ c in ['<a>'] }} {{ {'<a>': 7}[c] }} {{ c < 'b' }} {{ c is string }}";
  EXPECT_EQ(Rendered(jinja, "<a>"), "[True True True 3 True 7 True True]");
}

TEST(ChatTemplateTest, TemplatesThatRunAwayFail) {
  const std::string loop = "{% for i in range(3000) %}{% for j in range(3000) %}";
  const std::string end = "{% endfor %}{% endfor %}";
  const std::string ns = "{% set ns = namespace(x='ab', l=[]) %}";
  EXPECT_THAT(
      Rendered(loop + "{% if i and j and i and j and i and j and i and j %}{% endif %}" + end),
      HasSubstr("too many steps"));
  EXPECT_THAT(Rendered(loop + "{{ messages }}" + end), HasSubstr("too much text"));
  EXPECT_THAT(Rendered(ns + loop + "{% set ns.x = ns.x + ns.x %}" + end),
              HasSubstr("too much text"));
  EXPECT_THAT(Rendered(ns + loop + "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}" + end),
              HasSubstr("too much text"));
  EXPECT_THAT(Rendered("{% set x %}" + loop + std::string(1000, 'x') + end + "{% endset %}"),
              HasSubstr("too much text"));
  EXPECT_THAT(Rendered(ns + loop + "{% set ns.l = ns.l + ns.l + [1] %}" + end),
              HasSubstr("too much text"));
  EXPECT_THAT(Rendered(ns + loop + "{% set ns.l = [ns.l] %}" + end), HasSubstr("levels deep"));
  EXPECT_THAT(Rendered(ns + loop + "{% set ns.l = {'a': ns.l} %}" + end), HasSubstr("levels deep"));
  EXPECT_THAT(Rendered(ns + "{% set ns.l = [ns] %}"), HasSubstr("can't hold"));
  EXPECT_THAT(Rendered("{{ 'x' * 1000000000000 }}"), HasSubstr("too much text"));
  EXPECT_THAT(Rendered("{{ range(1000000000000) }}"), HasSubstr("too much text"));
  EXPECT_THAT(Rendered("{{ 'x' | indent(1000000000000, true) }}"), HasSubstr("too much text"));
  EXPECT_THAT(Rendered("{{ 10 ** 30 }}"), HasSubstr("64 bits"));
  EXPECT_THAT(Rendered("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"), HasSubstr("fails"));
}

TEST(ChatTemplateTest, SourcesOfAnyDepthAreCompiledOrRefused) {
  const auto repeated = [](const std::string& text, int times) {
    std::string all;
    for (int i = 0; i < times; ++i) all += text;
    return all;
  };
  EXPECT_EQ(Rendered("{{ 0" + repeated("+1", 60'000) + " }}"), "[60000]");
  EXPECT_EQ(Rendered("{{ 0" + repeated("|abs", 30'000) + " }}"), "[0]");
  for (const char* open : {"(", "[", "{% if 1 %}", "{{ not ", "-", "{% for x in y %}"}) {
    EXPECT_THAT(Rendered("{{ " + repeated(open, 10'000)), HasSubstr("no template"));
    EXPECT_THAT(Rendered(repeated(open, 10'000) + " }}"), Not(HasSubstr("never")));
  }
  EXPECT_THAT(Rendered(std::string(1 << 20, 'x')), HasSubstr("no template"));
}

TEST(ChatTemplateTest, TheDeveloperIsTheSystemWhereATemplateDoesNotKnowOne) {
  const Conversation conversation = {.messages = {{.role = "developer", .content = "x"}}};
  EXPECT_EQ(Rendered("{{ messages[0].role }}", conversation), "[system]");
  EXPECT_EQ(Rendered("{# developer #}{{ messages[0].role }}", conversation), "[developer]");
}

TEST(ChatTemplateTest, UnknownRolesAreTextOfTheConversation) {
  EXPECT_EQ(Rendered("<{{ messages[0].role }}>", {.messages = {{.role = "s", .content = ""}}}),
            "[<]s[>]");
}

TEST(ChatTemplateTest, CallsOfToolsHaveNoContentUnlessTheyBringSome) {
  Conversation conversation = {
      .messages = {{.role = "assistant", .tool_calls = {{.name = "f", .arguments = "{\"a\":1}"}}}}};
  const std::string jinja = "{{ messages[0].content }}{{ messages[0].tool_calls[0].function }}";
  EXPECT_EQ(Rendered(jinja, conversation), "[None{'name': ']f[', 'arguments': {']a[': 1}}]");
  conversation.messages[0].content = "x";
  conversation.messages[0].tool_calls[0].arguments = "{";
  EXPECT_EQ(Rendered(jinja, conversation), "x[{'name': ']f[', 'arguments': ']{['}]");
}

TEST(ChatTemplateTest, ArgumentsAreVariables) {
  const Conversation conversation = {.messages = {{.role = "user", .content = "x"}},
                                     .arguments = {{"think", "false"}, {"name", "\"<s>\""}}};
  EXPECT_EQ(Rendered("{{ think is false }}{{ name }}{{ other is defined }}", conversation),
            "[True]<s>[False]");
}

TEST(ChatTemplateTest, MarksOfTheEngineInContentsAreReplaced) {
  const std::string marks =
      absl::StrCat(TemplateEngine::kGivenEnd, "<s>", TemplateEngine::kGivenBegin);
  EXPECT_EQ(Rendered("<s>{{ messages[0].content }}", marks), "[<s>]\uFFFD<s>\uFFFD");
  EXPECT_THAT(Rendered(marks), HasSubstr("noncharacter"));
  EXPECT_EQ(Rendered("{{ '\\ufdd1' }}<s>{{ '\\ufdd0' }}x"), "[<s>x]");
}

TEST(ChatTemplateTest, BytesThatAreNoUtf8AreReplaced) {
  EXPECT_EQ(Rendered("{{ messages[0].content }}", "a\xFFz"), "a\uFFFDz");
}

TEST(ChatTemplateTest, ErrorsSayWhatIsWrongAndWhere) {
  EXPECT_EQ(Rendered("x", Conversation{}), "messages is empty.");
  EXPECT_EQ(Rendered("{{ raise_exception('No, ' ~ messages[0].content) }}"),
            "the model's chat template refuses: No, hello");
  EXPECT_EQ(Rendered("\n\n{{ 'x' + none }}"),
            "the model's chat template fails: a text + none is not possible (line 3)");
  EXPECT_THAT(Rendered("{{ messages.x.y }}"), HasSubstr("undefined"));
  EXPECT_THAT(Rendered("{{ 1 | frobnicate }}"), HasSubstr("frobnicate"));
  EXPECT_THAT(Rendered("{{ 'x'.frobnicate() }}"), HasSubstr("frobnicate"));
  EXPECT_THAT(Rendered("{% include 'x' %}"), HasSubstr("no template"));
}

TEST(ChatTemplateTest, OnlyShallowJsonIsTaken) {
  EXPECT_TRUE(CheckJson("{\"a\": [1, \"]]][[[\\\"\", null]}").ok());
  EXPECT_THAT(CheckJson("{a: 1}").message(), HasSubstr("not JSON"));
  EXPECT_THAT(CheckJson(std::string(100'000, '[')).message(), HasSubstr("32 levels"));
}

}  // namespace
}  // namespace winnow
