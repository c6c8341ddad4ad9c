#include "server/grpc/chat.h"

#include <algorithm>
#include <array>
#include <string>
#include <string_view>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace winnow {
namespace {

/// Variables that requests set by other fields, or not at all.
constexpr std::array<std::string_view, 6> kReserved = {
    "messages", "tools", "add_generation_prompt", "bos_token", "eos_token", "unk_token"};

void CheckName(const std::string& field, const std::string& name, Checker& checker) {
  if (name.empty()) {
    checker.Violation(field, "must not be empty");
  } else if (name.size() > kMaxNameBytes) {
    checker.Violation(field, absl::StrCat("has ", name.size(), " bytes, most are ", kMaxNameBytes));
  }
}

void CheckOptionalName(const std::string& field, const std::string& name, Checker& checker) {
  if (!name.empty()) CheckName(field, name, checker);
}

bool IsIdentifier(const std::string& name) {
  return !name.empty() && !absl::ascii_isdigit(name[0]) &&
         std::ranges::all_of(name, [](char c) { return absl::ascii_isalnum(c) || c == '_'; });
}

ToolCall ReadCall(const std::string& field, const v1::ToolCall& call, Checker& checker) {
  CheckOptionalName(absl::StrCat(field, ".id"), call.id(), checker);
  CheckName(absl::StrCat(field, ".name"), call.name(), checker);
  return {.id = call.id(), .name = call.name(), .arguments = call.arguments()};
}

ChatMessage ReadMessage(const std::string& field, const v1::ChatMessage& message,
                        Checker& checker) {
  ChatMessage out = {.role = message.role(),
                     .content = message.content(),
                     .tool_call_id = message.tool_call_id(),
                     .name = message.name()};
  if (!IsChatRole(out.role)) {
    checker.Violation(
        absl::StrCat(field, ".role"),
        absl::StrCat("must be system, developer, user, assistant or tool, is '", out.role, "'"));
  }
  if (message.parts_size() > 0 && !out.content.empty()) {
    checker.Violation(absl::StrCat(field, ".parts"), "must be empty where content is set");
  }
  for (int i = 0; i < message.parts_size(); ++i) {
    if (!message.parts(i).has_text()) {
      checker.Violation(absl::StrCat(field, ".parts[", i, "]"), "must have a text");
    }
    out.parts.push_back(message.parts(i).text());
  }
  if (message.tool_calls_size() > 0 && out.role != "assistant") {
    checker.Violation(absl::StrCat(field, ".tool_calls"), "are for the role assistant only");
  }
  checker.AtMost(absl::StrCat(field, ".tool_calls").c_str(), message.tool_calls_size(),
                 kMaxToolCalls, "calls");
  for (int i = 0; i < std::min(message.tool_calls_size(), kMaxToolCalls); ++i) {
    out.tool_calls.push_back(
        ReadCall(absl::StrCat(field, ".tool_calls[", i, "]"), message.tool_calls(i), checker));
  }
  if (!(out.tool_call_id.empty() && out.name.empty()) && out.role != "tool") {
    checker.Violation(field, "tool_call_id and name are for the role tool only");
  }
  CheckOptionalName(absl::StrCat(field, ".tool_call_id"), out.tool_call_id, checker);
  CheckOptionalName(absl::StrCat(field, ".name"), out.name, checker);
  return out;
}

Tool ReadTool(const std::string& field, const v1::Tool& tool, Checker& checker) {
  CheckName(absl::StrCat(field, ".name"), tool.name(), checker);
  if (!tool.parameters().empty()) {
    if (absl::Status status = CheckJson(tool.parameters()); !status.ok()) {
      checker.Violation(absl::StrCat(field, ".parameters"), std::string(status.message()));
    }
  }
  return {.name = tool.name(), .description = tool.description(), .parameters = tool.parameters()};
}

}  // namespace

size_t TextBytes(const v1::ChatMessages& chat) { return chat.ByteSizeLong(); }

Conversation ReadConversation(const v1::ChatMessages& chat, Checker& checker) {
  Conversation out;
  if (chat.messages().empty()) checker.Violation("chat.messages", "must not be empty");
  for (int i = 0; i < chat.messages_size(); ++i) {
    out.messages.push_back(
        ReadMessage(absl::StrCat("chat.messages[", i, "]"), chat.messages(i), checker));
  }
  checker.AtMost("chat.tools", chat.tools_size(), kMaxTools, "functions");
  for (int i = 0; i < std::min(chat.tools_size(), kMaxTools); ++i) {
    out.tools.push_back(ReadTool(absl::StrCat("chat.tools[", i, "]"), chat.tools(i), checker));
  }
  checker.AtMost("chat.template_arguments", static_cast<int>(chat.template_arguments().size()),
                 kMaxTemplateArguments, "arguments");
  for (const auto& [name, value] : chat.template_arguments()) {
    const std::string field = absl::StrCat("chat.template_arguments['", name, "']");
    if (!IsIdentifier(name) || name.size() > kMaxNameBytes) {
      checker.Violation(field, "must be named by letters, digits and underscores");
    } else if (std::ranges::find(kReserved, name) != kReserved.end()) {
      checker.Violation(field, "is set by the server");
    }
    if (absl::Status status = CheckJson(value); !status.ok()) {
      checker.Violation(field, std::string(status.message()));
    }
    out.arguments.emplace_back(name, value);
  }
  return out;
}

}  // namespace winnow
