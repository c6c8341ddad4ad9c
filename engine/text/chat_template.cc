#include "engine/text/chat_template.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"

namespace winnow {
namespace {

using Json = nlohmann::ordered_json;
using Variables = std::vector<std::pair<std::string, std::string>>;

/// Text that the operations of a rendering may read and make: so much, and for each byte of the
/// conversation so much more.
constexpr size_t kFreeBytes = 64 << 20;
constexpr size_t kBytesPerByte = 64;

constexpr std::array<std::string_view, 5> kRoles = {"system", "developer", "user", "assistant",
                                                    "tool"};
constexpr char kReplacement[] = "\xEF\xBF\xBD";

/// A text of the conversation, marked as such.
std::string Given(std::string_view text) {
  if (text.empty()) return "";
  return absl::StrCat(TemplateEngine::kGivenBegin,
                      absl::StrReplaceAll(absl::string_view(text.data(), text.size()),
                                          {{TemplateEngine::kGivenBegin, kReplacement},
                                           {TemplateEngine::kGivenEnd, kReplacement}}),
                      TemplateEngine::kGivenEnd);
}

/// The same for all texts in a value. REQUIRES: no deeper than ChatTemplate::kMaxJsonDepth.
Json GivenJson(const Json& value) {
  if (value.is_string()) return Json(Given(value.get_ref<const std::string&>()));
  if (value.is_array()) {
    Json items = Json::array();
    for (const Json& item : value) items.push_back(GivenJson(item));
    return items;
  }
  if (!value.is_object()) return value;
  Json entries = Json::object();
  for (const auto& [key, item] : value.items()) entries[Given(key)] = GivenJson(item);
  return entries;
}

/// Whether brackets outside of strings are never nested more deeply than `limit`.
bool IsNestedWithin(std::string_view text, int limit) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > limit) return false;
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return true;
}

absl::StatusOr<Json> ParseJson(std::string_view text) {
  if (!IsNestedWithin(text, ChatTemplate::kMaxJsonDepth)) {
    return absl::InvalidArgumentError(
        absl::StrCat("is nested more than ", ChatTemplate::kMaxJsonDepth, " levels deep"));
  }
  Json value = Json::parse(text, /*cb=*/nullptr, /*allow_exceptions=*/false);
  if (value.is_discarded()) return absl::InvalidArgumentError("is not JSON");
  return value;
}

Json CallJson(const ToolCall& call) {
  absl::StatusOr<Json> arguments = ParseJson(call.arguments);
  const bool is_object = arguments.ok() && arguments->is_object();
  return {{"id", Given(call.id)},
          {"type", "function"},
          {"function",
           {{"name", Given(call.name)},
            {"arguments", is_object ? GivenJson(*arguments) : Json(Given(call.arguments))}}}};
}

absl::StatusOr<Json> ToolJson(const Tool& tool) {
  Json function = {{"name", Given(tool.name)}};
  if (!tool.description.empty()) function["description"] = Given(tool.description);
  if (!tool.parameters.empty()) {
    const absl::StatusOr<Json> parameters = ParseJson(tool.parameters);
    if (!parameters.ok()) return parameters.status();
    function["parameters"] = GivenJson(*parameters);
  }
  return Json{{"type", "function"}, {"function", std::move(function)}};
}

Json PartsJson(const std::vector<std::string>& texts) {
  Json parts = Json::array();
  for (const std::string& text : texts) parts.push_back({{"type", "text"}, {"text", Given(text)}});
  return parts;
}

/// A rendering cut where its author changes.
std::vector<TextSegment> Cut(std::string_view marked) {
  std::vector<TextSegment> segments;
  bool given = false;
  while (!marked.empty()) {
    const std::string_view mark = given ? TemplateEngine::kGivenEnd : TemplateEngine::kGivenBegin;
    const std::string_view text = marked.substr(0, marked.find(mark));
    if (!text.empty() && !segments.empty() && segments.back().parse_special != given) {
      segments.back().text += text;
    } else if (!text.empty()) {
      segments.push_back({.text = std::string(text), .parse_special = !given});
    }
    marked.remove_prefix(std::min(marked.size(), text.size() + mark.size()));
    given = !given;
  }
  return segments;
}

/// The variables that renderings have in common, as Hugging Face sets them.
Json Context(const Variables& tokens) {
  Json context = {{"tools", nullptr}, {"documents", nullptr}, {"add_generation_prompt", true}};
  for (const auto& [name, spelling] : tokens) context[name] = spelling;
  return context;
}

absl::StatusOr<std::string> Run(const TemplateEngine& engine, const Json& context, absl::Time now) {
  const std::string text = context.dump(-1, ' ', false, Json::error_handler_t::replace);
  return engine.Render(text, kFreeBytes + kBytesPerByte * text.size(), now);
}

/// Whether a template makes a prompt of a user's message with this content, and not of how Python
/// or JSON would write the content down.
bool Takes(const TemplateEngine& engine, const Variables& tokens, const Json& content) {
  Json context = Context(tokens);
  context["messages"] = Json::array({Json{{"role", "user"}, {"content", content}}});
  const absl::StatusOr<std::string> prompt = Run(engine, context, absl::UnixEpoch());
  return prompt.ok() && prompt->find("probe") != std::string::npos &&
         prompt->find("'type'") == std::string::npos &&
         prompt->find("\"type\"") == std::string::npos;
}

}  // namespace

bool IsChatRole(std::string_view role) { return std::ranges::find(kRoles, role) != kRoles.end(); }

absl::Status CheckJson(std::string_view text) { return ParseJson(text).status(); }

absl::StatusOr<ChatTemplate::Program> ChatTemplate::Compile(const std::string& jinja,
                                                            const Variables& tokens) {
  absl::StatusOr<TemplateEngine> engine = TemplateEngine::Compile(jinja);
  if (!engine.ok()) return engine.status();
  Program program = {*std::move(engine)};
  program.knows_developer = jinja.find("developer") != std::string::npos;
  program.takes_parts = Takes(program.engine, tokens, PartsJson({"probe"}));
  program.takes_text = !program.takes_parts || Takes(program.engine, tokens, "probe");
  return program;
}

absl::StatusOr<ChatTemplate> ChatTemplate::Create(const Source& source) {
  absl::StatusOr<Program> program = Compile(source.jinja, source.tokens);
  if (!program.ok()) return program.status();
  std::optional<Program> tool_use;
  if (!source.tool_use.empty()) {
    absl::StatusOr<Program> compiled = Compile(source.tool_use, source.tokens);
    if (!compiled.ok()) return compiled.status();
    tool_use = *std::move(compiled);
  }
  return ChatTemplate(*std::move(program), std::move(tool_use), source.tokens);
}

absl::StatusOr<std::vector<TextSegment>> ChatTemplate::Render(const Conversation& conversation,
                                                              absl::Time now) const {
  if (conversation.messages.empty()) return absl::InvalidArgumentError("messages is empty.");
  const Program& program =
      tool_use_.has_value() && !conversation.tools.empty() ? *tool_use_ : program_;
  Json context = Context(tokens_);
  for (const auto& [name, text] : conversation.arguments) {
    const absl::StatusOr<Json> value = ParseJson(text);
    if (!value.ok()) return value.status();
    context[name] = GivenJson(*value);
  }
  Json& messages = context["messages"] = Json::array();
  for (const ChatMessage& message : conversation.messages) {
    Json& json = messages.emplace_back();
    if (!IsChatRole(message.role)) {
      json["role"] = Given(message.role);
    } else {
      const bool is_system = message.role == "developer" && !program.knows_developer;
      json["role"] = is_system ? "system" : message.role;
    }
    if (!message.parts.empty()) {
      json["content"] = program.takes_parts ? PartsJson(message.parts)
                                            : Json(Given(absl::StrJoin(message.parts, "\n")));
    } else if (!message.tool_calls.empty() && message.content.empty()) {
      json["content"] = nullptr;
    } else {
      json["content"] =
          program.takes_text ? Json(Given(message.content)) : PartsJson({message.content});
    }
    for (const ToolCall& call : message.tool_calls) json["tool_calls"].push_back(CallJson(call));
    if (!message.tool_call_id.empty()) json["tool_call_id"] = Given(message.tool_call_id);
    if (!message.name.empty()) json["name"] = Given(message.name);
  }
  for (const Tool& tool : conversation.tools) {
    const absl::StatusOr<Json> json = ToolJson(tool);
    if (!json.ok()) return json.status();
    context["tools"].push_back(*json);
  }
  const absl::StatusOr<std::string> prompt = Run(program.engine, context, now);
  if (absl::IsFailedPrecondition(prompt.status())) {
    return absl::InvalidArgumentError(
        absl::StrCat("the model's chat template refuses: ", prompt.status().message()));
  }
  if (!prompt.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the model's chat template fails: ", prompt.status().message()));
  }
  return Cut(*prompt);
}

}  // namespace winnow
