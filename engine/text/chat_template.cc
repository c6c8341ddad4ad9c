#include "engine/text/chat_template.h"

#include <unicode/uchar.h>
#include <unicode/utf8.h>

#include <algorithm>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/text/jinja_outline.h"

namespace winnow {
namespace {

constexpr std::string_view kBos = "<s>";
constexpr std::string_view kEos = "</s>";

/// Whitespace as Python, which templates are written for, has it.
bool IsWhitespace(UChar32 c) { return c >= 0 && (u_isUWhiteSpace(c) || (c >= 0x1C && c <= 0x1F)); }

std::string_view TrimStart(std::string_view text) {
  size_t begin = 0;
  while (begin < text.size()) {
    size_t next = begin;
    UChar32 c;
    U8_NEXT(text.data(), next, text.size(), c);
    if (!IsWhitespace(c)) break;
    begin = next;
  }
  return text.substr(begin);
}

std::string_view TrimEnd(std::string_view text) {
  size_t end = text.size();
  while (end > 0) {
    size_t last = end - 1;
    while (last > 0 && U8_IS_TRAIL(text[last])) --last;
    size_t next = last;
    UChar32 c;
    U8_NEXT(text.data(), next, end, c);
    if (next != end || !IsWhitespace(c)) break;
    end = last;
  }
  return text.substr(0, end);
}

std::string_view Trimmed(std::string_view text, bool trims) {
  return trims ? TrimEnd(TrimStart(text)) : text;
}

/// A text under construction, of what the template writes and what messages say.
class Segments {
 public:
  void Template(std::string_view text) { Append(text, /*parse_special=*/true); }
  void Content(std::string_view text) { Append(text, /*parse_special=*/false); }
  void Append(std::string_view text, bool parse_special) {
    if (text.empty()) return;
    if (segments_.empty() || segments_.back().parse_special != parse_special) {
      segments_.push_back({.text = "", .parse_special = parse_special});
    }
    segments_.back().text += text;
  }
  void Append(const std::vector<TextSegment>& segments) {
    for (const TextSegment& segment : segments) Append(segment.text, segment.parse_special);
  }

  /// Drops whitespace around the text.
  void Trim() {
    while (!segments_.empty()) {
      segments_.front().text = TrimStart(segments_.front().text);
      if (!segments_.front().text.empty()) break;
      segments_.erase(segments_.begin());
    }
    while (!segments_.empty()) {
      segments_.back().text = TrimEnd(segments_.back().text);
      if (!segments_.back().text.empty()) break;
      segments_.pop_back();
    }
  }

  std::vector<TextSegment> Take() { return std::move(segments_); }

 private:
  std::vector<TextSegment> segments_;
};

/// The default system message of a ChatML template: spelled whole in one of its literals.
std::optional<std::string> FindDefaultSystem(const JinjaOutline& outline) {
  constexpr std::string_view kOpen = "<|im_start|>system\n";
  for (const std::string& literal : outline.literals()) {
    const size_t open = literal.find(kOpen);
    if (open == std::string::npos) continue;
    const size_t begin = open + kOpen.size();
    const size_t end = literal.find("<|im_end|>", begin);
    if (end != std::string::npos) return literal.substr(begin, end - begin);
  }
  return std::nullopt;
}

}  // namespace

absl::StatusOr<ChatTemplate> ChatTemplate::FromJinja(std::string_view jinja) {
  const JinjaOutline outline(jinja);
  ChatTemplate result;
  result.adds_bos_ = outline.Uses("bos_token") || outline.Spells("<|begin_of_text|>");
  if (outline.Spells("<|im_start|>") && !outline.Spells("<|im_sep|>")) {
    result.UseChatMl(outline);
  } else if (outline.Spells("<|start_header_id|>")) {
    result.UseLlama3(outline);
  } else if (!result.UseInst(outline) && !result.UseVicuna(outline)) {
    return absl::UnimplementedError(
        "tokenizer.chat_template is none that Winnow knows (ChatML, Llama-2, Llama-3, Mistral, "
        "Vicuna); send the prompt as plain text instead of messages.");
  }
  return result;
}

void ChatTemplate::UseChatMl(const JinjaOutline& outline) {
  family_ = ChatFamily::kChatMl;
  system_ = {"<|im_start|>system\n", "<|im_end|>\n"};
  user_ = {"<|im_start|>user\n", "<|im_end|>\n"};
  assistant_ = {"<|im_start|>assistant\n", "<|im_end|>\n"};
  generation_prompt_ = assistant_.open;
  // Models that always think first have the answer start with that.
  const std::string thinking = generation_prompt_ + "<think>\n";
  if (outline.Spells(thinking)) generation_prompt_ = thinking;
  default_system_ = FindDefaultSystem(outline);
}

void ChatTemplate::UseLlama3(const JinjaOutline& outline) {
  family_ = ChatFamily::kLlama3;
  const std::string end = "<|eot_id|>";
  system_ = {"<|start_header_id|>system<|end_header_id|>\n\n", end};
  user_ = {"<|start_header_id|>user<|end_header_id|>\n\n", end};
  assistant_ = {"<|start_header_id|>assistant<|end_header_id|>\n\n", end};
  generation_prompt_ = assistant_.open;
  trims_system_ = trims_user_ = trims_assistant_ = true;
  if (outline.Spells("Cutting Knowledge Date: December 2023\n")) {
    // Llama 3.1 and later always open with a system turn. Its date is the one that the template
    // falls back to, not today's: the same request gives the same prompt tomorrow.
    system_preamble_ = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n";
    default_system_ = "";
  }
}

bool ChatTemplate::UseInst(const JinjaOutline& outline) {
  // The spaces around the marks differ from version to version, and matter to the model. What Jinja
  // makes of other whitespace, as around marks outside of literals, is not known here.
  const auto read_mark = [&outline](std::string_view mark, std::string& literal) {
    literal = outline.LiteralWith(mark);
    const size_t begin = literal.find_first_not_of(' ');
    return begin != std::string::npos && literal.find_last_not_of(' ') == begin + mark.size() - 1;
  };
  Frame user;
  if (!read_mark("[INST]", user.open) || !read_mark("[/INST]", user.close) ||
      outline.Spells("[SYSTEM_PROMPT]")) {
    return false;
  }
  user_ = user;
  assistant_ = {outline.Uses("' '+message") || outline.Uses("' '+content") ? " " : "",
                std::string(kEos)};
  if (outline.Uses("' '+eos_token")) assistant_.close.insert(0, " ");
  if (outline.Uses("eos_token+' '")) assistant_.close.append(" ");
  alternates_ = true;
  trims_assistant_ = outline.Uses("content.strip()") || outline.Uses("]|trim+eos_token");
  trims_user_ = outline.Uses("content.strip()");
  if (outline.Uses("bos_token+'[INST]")) later_user_prefix_ = kBos;
  if (outline.Spells("<<SYS>>")) {
    family_ = ChatFamily::kLlama2;
    system_ = {"<<SYS>>\n", "\n<</SYS>>\n\n"};
    system_place_ = SystemPlace::kFirstUserTurn;
    // Templates that were made from older code hold a default even where this condition disables
    // it.
    const std::string system = outline.LiteralAfter("setsystem_message=");
    if (!system.empty() && !outline.Uses("false==true")) default_system_ = system;
    return true;
  }
  family_ = ChatFamily::kMistral;
  system_ = {"", "\n\n"};
  system_place_ = outline.Uses("loop.lastandsystem_message")    ? SystemPlace::kLastUserTurn
                  : outline.Uses("loop.firstandsystem_message") ? SystemPlace::kFirstUserTurn
                                                                : SystemPlace::kNowhere;
  return true;
}

bool ChatTemplate::UseVicuna(const JinjaOutline& outline) {
  using ContentFrame = JinjaOutline::ContentFrame;
  constexpr std::string_view kUser = "USER: ", kAssistant = "ASSISTANT: ";
  // What is put around a message, and whether it stands on a line of its own, differs from template
  // to template.
  const std::vector<ContentFrame> frames = outline.ContentFrames(kEos);
  const auto find = [&frames](auto matches) {
    return std::find_if(frames.begin(), frames.end(), matches);
  };
  const auto user = find([&](const ContentFrame& frame) { return frame.open == kUser; });
  const auto assistant = find([&](const ContentFrame& frame) { return frame.open == kAssistant; });
  const auto system = find([&](const ContentFrame& frame) {
    return frame.open != kUser && frame.open != kAssistant && !frame.close.empty();
  });
  if (user == frames.end() || assistant == frames.end() || system == frames.end() ||
      !outline.Spells("ASSISTANT:")) {
    return false;
  }
  family_ = ChatFamily::kVicuna;
  adds_bos_ = true;  // Vicuna was trained with it, though not every template says so.
  system_ = {system->open, system->close};
  user_ = {user->open, user->close};
  assistant_ = {assistant->open, assistant->close};
  generation_prompt_ = "ASSISTANT:";
  trims_system_ = system->trims;
  trims_user_ = user->trims;
  trims_assistant_ = assistant->trims;
  alternates_ = outline.Spells("roles must alternate");
  return true;
}

absl::Status ChatTemplate::CheckOrder(const std::vector<ChatMessage>& messages) const {
  if (messages.empty()) return absl::InvalidArgumentError("messages is empty.");
  const bool leads_with_system = messages[0].role == "system";
  for (size_t i = 0; i < messages.size(); ++i) {
    const std::string& role = messages[i].role;
    if (role != "system" && role != "user" && role != "assistant") {
      return absl::InvalidArgumentError(absl::StrCat(
          "messages[", i, "].role is '", role, "'; roles are 'system', 'user' and 'assistant'."));
    }
    if (!alternates_) continue;
    if (i == 0 && leads_with_system && system_place_ != SystemPlace::kNowhere) continue;
    if (role == "system") {
      return absl::InvalidArgumentError(
          system_place_ == SystemPlace::kNowhere
              ? "messages holds a system message, which the model's chat template has no place for."
              : absl::StrCat("messages[", i, "] is a system message; only the first may be one."));
    }
    if ((role == "user") != ((i - leads_with_system) % 2 == 0)) {
      return absl::InvalidArgumentError(
          absl::StrCat("messages[", i, "].role is '", role,
                       "'; with this model user and assistant must take turns, the user first."));
    }
  }
  if (alternates_ && messages.back().role != "user") {
    return absl::InvalidArgumentError(
        "messages must end with a user message for this model's chat template.");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<TextSegment>> ChatTemplate::Render(
    const std::vector<ChatMessage>& messages) const {
  if (absl::Status status = CheckOrder(messages); !status.ok()) return status;
  const bool leads_with_system = messages.front().role == "system";
  // With alternating turns, a system message leads and moves into a user turn.
  const bool moves_system =
      system_place_ != SystemPlace::kOwnTurn && (leads_with_system || default_system_.has_value());
  const size_t first_turn = moves_system && leads_with_system ? 1 : 0;
  const size_t system_turn =
      system_place_ == SystemPlace::kLastUserTurn ? messages.size() - 1 : first_turn;

  Segments prompt;
  if (default_system_ && !leads_with_system && !moves_system) {
    prompt.Template(system_.open + system_preamble_ + *default_system_ + system_.close);
  }
  for (size_t i = first_turn; i < messages.size(); ++i) {
    const auto& [role, content] = messages[i];
    if (role == "system") {
      prompt.Template(i == 0 ? system_.open + system_preamble_ : system_.open);
      prompt.Content(Trimmed(content, trims_system_));
      prompt.Template(system_.close);
    } else if (role == "assistant") {
      prompt.Template(assistant_.open);
      prompt.Content(Trimmed(content, trims_assistant_));
      prompt.Template(assistant_.close);
    } else {
      Segments text;
      if (moves_system && i == system_turn) {
        text.Template(system_.open);
        text.Append(leads_with_system ? messages.front().content : *default_system_,
                    /*parse_special=*/!leads_with_system);
        text.Template(system_.close);
      }
      text.Content(content);
      if (trims_user_) text.Trim();
      if (i > first_turn) prompt.Template(later_user_prefix_);
      prompt.Template(user_.open);
      prompt.Append(text.Take());
      prompt.Template(user_.close);
    }
  }
  prompt.Template(generation_prompt_);
  return prompt.Take();
}

}  // namespace winnow
