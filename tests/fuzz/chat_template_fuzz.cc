// A chat template of any text with any messages: fields that are separated by zero bytes, the Jinja
// template first, then the role and the content of each message.

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/check.h"
#include "engine/text/chat_template.h"

namespace winnow {
namespace {

std::vector<std::string> Fields(std::string_view input) {
  std::vector<std::string> fields;
  for (size_t begin = 0;;) {
    const size_t end = input.find('\0', begin);
    fields.emplace_back(input.substr(begin, end - begin));
    if (end == std::string_view::npos) return fields;
    begin = end + 1;
  }
}

/// The part of a content that no template's trimming touches: from the first to the last letter.
std::string_view Core(std::string_view content) {
  constexpr std::string_view kLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
  const size_t begin = content.find_first_of(kLetters);
  if (begin == std::string_view::npos) return "";
  return content.substr(begin, content.find_last_of(kLetters) - begin + 1);
}

}  // namespace
}  // namespace winnow

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace winnow;
  const std::vector<std::string> fields =
      Fields(std::string_view(reinterpret_cast<const char*>(data), size));
  const auto chat = ChatTemplate::FromJinja(fields[0]);
  if (!chat.ok()) return 0;
  std::vector<ChatMessage> messages;
  size_t bytes = 0;
  for (size_t i = 1; i + 1 < fields.size(); i += 2) {
    messages.push_back({fields[i], fields[i + 1]});
    bytes += fields[i + 1].size();
  }
  const auto prompt = chat->Render(messages);
  if (!prompt.ok()) return 0;
  // Contents are there, where no control tokens are parsed.
  for (const ChatMessage& message : messages) {
    const bool found = std::any_of(prompt->begin(), prompt->end(), [&](const TextSegment& segment) {
      return !segment.parse_special &&
             segment.text.find(Core(message.content)) != std::string::npos;
    });
    WINNOW_CHECK(found || Core(message.content).empty());
  }
  // Frames come from the template, and each message has one.
  size_t prompt_bytes = 0;
  for (const TextSegment& segment : *prompt) prompt_bytes += segment.text.size();
  WINNOW_CHECK(prompt_bytes <= bytes + (messages.size() + 2) * (2 * fields[0].size() + 200));
  return 0;
}
