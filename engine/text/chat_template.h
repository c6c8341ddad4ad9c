#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace winnow {

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

  /// The prompt text up to where the assistant's next answer starts, to be encoded with
  /// `parse_special` and without a further BOS token unless `adds_bos()` says so. INVALID_ARGUMENT
  /// for no messages, an unknown role, or an order that the family can't express.
  absl::StatusOr<std::string> Render(const std::vector<ChatMessage>& messages) const;

  ChatFamily family() const { return family_; }
  /// Whether the tokenizer should still put BOS in front (the rendered text does not spell it).
  bool adds_bos() const;

 private:
  ChatFamily family_ = ChatFamily::kChatMl;
  std::string default_system_;  ///< put in front when the messages bring none; may be empty
};

}  // namespace winnow
