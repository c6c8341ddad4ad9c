// A chat template of any text with conversations of any text: fields that are separated by zero
// bytes, the Jinja template first, then a system's, a user's, an assistant's and a tool's content,
// the arguments of the assistant's call, and the tool's schema.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/time/time.h"
#include "engine/base/check.h"
#include "engine/text/chat_template.h"

namespace winnow {
namespace {

/// Stands in every text of the conversation and, as a character, nowhere else.
constexpr std::string_view kSnowman = "\u2603";

std::vector<std::string> Fields(std::string_view input) {
  std::vector<std::string> fields;
  for (size_t begin = 0;;) {
    const size_t end = input.find('\0', begin);
    fields.emplace_back(input.substr(begin, end - begin));
    if (end == std::string_view::npos) return fields;
    begin = end + 1;
  }
}

Conversation MakeConversation(const std::vector<std::string>& fields) {
  const auto text = [&](size_t i) {
    return std::string(kSnowman) + (i < fields.size() ? fields[i] : "") + std::string(kSnowman);
  };
  Conversation conversation;
  const std::string json =
      "{\"" + std::string(kSnowman) + "\": [\"" + std::string(kSnowman) + "\"]}";
  if (fields.size() > 1) conversation.messages.push_back({.role = "system", .content = text(1)});
  conversation.messages.push_back({.role = "user", .parts = {text(2), text(2)}});
  if (fields.size() > 3) {
    conversation.messages.push_back(
        {.role = "assistant",
         .content = text(3),
         .tool_calls = {{.id = text(0), .name = text(1), .arguments = json},
                        {.id = text(0), .name = text(1), .arguments = text(5)}}});
    conversation.messages.push_back({.role = "tool", .content = text(4), .name = text(1)});
    const bool is_schema = fields.size() > 6 && CheckJson(fields[6]).ok();
    conversation.tools.push_back(
        {.name = text(1), .description = text(2), .parameters = is_schema ? fields[6] : json});
    conversation.arguments.emplace_back("enable_thinking", "false");
    conversation.arguments.emplace_back("documents", json);
  }
  return conversation;
}

}  // namespace
}  // namespace winnow

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace winnow;
  const std::vector<std::string> fields =
      Fields(std::string_view(reinterpret_cast<const char*>(data), size));
  const auto chat = ChatTemplate::Create({.jinja = fields[0], .tokens = {{"bos_token", "<s>"}}});
  if (!chat.ok()) return 0;
  const Conversation conversation = MakeConversation(fields);
  const auto prompt = chat->Render(conversation, absl::UnixEpoch());
  if (!prompt.ok()) return 0;
  // Whatever the template did with them, no character of the conversation counts as its own.
  const bool spells_it =
      fields[0].find(kSnowman) != std::string::npos || fields[0].find("2603") != std::string::npos;
  bool parses = !prompt->empty() && prompt->front().parse_special;
  for (const TextSegment& segment : *prompt) {
    WINNOW_CHECK(!segment.text.empty() && segment.parse_special == parses);
    WINNOW_CHECK(!parses || spells_it || segment.text.find(kSnowman) == std::string::npos);
    parses = !parses;
  }
  return 0;
}
