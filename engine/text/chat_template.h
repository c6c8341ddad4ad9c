#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/text/tokenizer.h"

namespace winnow {

class JinjaOutline;

struct ChatMessage {
  std::string role;  ///< "system", "user" or "assistant"
  std::string content;
};

/// The template families that Winnow renders itself, recognised by the markers in a model's
/// `tokenizer.chat_template`.
enum class ChatFamily { kChatMl, kLlama2, kLlama3, kMistral, kVicuna };

/// Renders chat messages as the prompt text that a model was trained on.
class ChatTemplate {
 public:
  /// Recognises the family of a Jinja template. UNIMPLEMENTED when it is none of the known ones.
  static absl::StatusOr<ChatTemplate> FromJinja(std::string_view jinja);

  /// The prompt text up to where the assistant's next answer starts, to be encoded without a
  /// further BOS token unless `adds_bos()` says so. Control tokens are parsed in what the template
  /// writes and not in the messages' contents, whose authors could end their turn and begin
  /// another's. INVALID_ARGUMENT for no messages, an unknown role, or an order that the family
  /// can't express.
  absl::StatusOr<std::vector<TextSegment>> Render(const std::vector<ChatMessage>& messages) const;

  ChatFamily family() const { return family_; }
  /// Whether the tokenizer should still put BOS in front (the rendered text does not spell it).
  bool adds_bos() const { return adds_bos_; }

 private:
  /// What stands before and after a message's content.
  struct Frame {
    std::string open;
    std::string close;
  };
  /// Where a system message goes: a turn of its own, or into a user turn before its content.
  enum class SystemPlace { kOwnTurn, kFirstUserTurn, kLastUserTurn, kNowhere };

  void UseChatMl(const JinjaOutline& outline);
  void UseLlama3(const JinjaOutline& outline);
  /// Llama-2 and Mistral, which share the [INST] marks. False, with nothing set, when the template
  /// has no such turns.
  bool UseInst(const JinjaOutline& outline);
  /// False, with nothing set, when the template has no such turns.
  bool UseVicuna(const JinjaOutline& outline);
  absl::Status CheckOrder(const std::vector<ChatMessage>& messages) const;

  ChatFamily family_ = ChatFamily::kChatMl;
  bool adds_bos_ = false;
  Frame system_, user_, assistant_;
  SystemPlace system_place_ = SystemPlace::kOwnTurn;
  std::string system_preamble_;    ///< put in front of the first system message's content
  std::string later_user_prefix_;  ///< put in front of every user turn but the first
  std::string generation_prompt_;  ///< opens the assistant's next answer
  bool trims_system_ = false;      ///< whitespace around the content is dropped
  bool trims_user_ = false;
  bool trims_assistant_ = false;
  /// User and assistant must take turns, the user first and last.
  bool alternates_ = false;
  /// The content of the system message that is taken when the messages bring none.
  std::optional<std::string> default_system_;
};

}  // namespace winnow
