#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/text/template_engine.h"
#include "engine/text/tokenizer.h"

namespace winnow {

/// A function that an assistant's message calls.
struct ToolCall {
  std::string id = {};
  std::string name = {};
  /// JSON, which templates get as an object; what is none they get as text.
  std::string arguments = {};
};

struct ChatMessage {
  std::string role = {};     ///< "system", "developer", "user", "assistant", "tool" (IsChatRole)
  std::string content = {};  ///< unless there are parts
  std::vector<std::string> parts = {};
  std::vector<ToolCall> tool_calls = {};  ///< of an assistant
  std::string tool_call_id = {};          ///< of a tool's result: which call it answers
  std::string name = {};                  ///< of a tool's result: the function that was called
};

/// A function that the model may call.
struct Tool {
  std::string name = {};
  std::string description = {};
  std::string parameters = {};  ///< the JSON schema of its arguments, or empty
};

struct Conversation {
  std::vector<ChatMessage> messages;
  std::vector<Tool> tools = {};
  /// Further variables of the template, such as "enable_thinking": names, and values as JSON.
  std::vector<std::pair<std::string, std::string>> arguments = {};
};

/// Renders conversations as the prompt text that a model was trained on, by the program that comes
/// with the model. Immutable, and safe to use from several threads.
class ChatTemplate {
 public:
  /// What a model brings.
  struct Source {
    std::string jinja;
    /// Used instead when there are tools, as Hugging Face's "tool_use"; empty: the same.
    std::string tool_use = {};
    /// Variables that spell tokens, such as {"bos_token", "<s>"}. Others are undefined.
    std::vector<std::pair<std::string, std::string>> tokens = {};
  };

  /// Deepest nesting of JSON in a conversation.
  static constexpr int kMaxJsonDepth = 32;

  /// INVALID_ARGUMENT says what is wrong with the template.
  static absl::StatusOr<ChatTemplate> Create(const Source& source);

  /// The prompt up to where the assistant's next answer starts.
  ///
  /// It is to be encoded without a further BOS token, as Hugging Face does: what the template
  /// writes is all that there is, whatever `add_bos_token` says. (llama.cpp puts BOS in front where
  /// a template writes none and the file wants one, and takes away the template's own where the
  /// file says no: both are prompts that the model was not trained on.)
  ///
  /// Control tokens are parsed in what the template writes and in nothing that the conversation
  /// brought, whatever the template makes of it: nobody can end their turn and begin another's. In
  /// contents, the noncharacters of TemplateEngine become U+FFFD.
  ///
  /// Templates that do not know the role "developer" get "system". Parts of contents are joined
  /// with line ends for templates that take none. An assistant's message with calls and without
  /// content has the content none, as OpenAI's.
  ///
  /// INVALID_ARGUMENT for no messages, arguments or schemas that are no JSON (CheckJson), and for
  /// what the template refuses, with its words.
  absl::StatusOr<std::vector<TextSegment>> Render(const Conversation& conversation,
                                                  absl::Time now) const;

 private:
  /// A template, and what it takes.
  struct Program {
    TemplateEngine engine;
    bool knows_developer = false;
    bool takes_text = true;
    bool takes_parts = false;
  };

  static absl::StatusOr<Program> Compile(
      const std::string& jinja, const std::vector<std::pair<std::string, std::string>>& tokens);

  ChatTemplate(Program program, std::optional<Program> tool_use,
               std::vector<std::pair<std::string, std::string>> tokens)
      : program_(std::move(program)), tool_use_(std::move(tool_use)), tokens_(std::move(tokens)) {}

  Program program_;
  std::optional<Program> tool_use_;
  std::vector<std::pair<std::string, std::string>> tokens_;
};

/// Whether a role is one that templates are written for. Others are texts of the conversation.
bool IsChatRole(std::string_view role);

/// INVALID_ARGUMENT says why a text is no JSON that templates can get: not JSON at all, or nested
/// too deeply.
absl::Status CheckJson(std::string_view text);

}  // namespace winnow
