#include "server/grpc/prompt.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/text/tokenizer.h"
#include "server/grpc/chat.h"

namespace winnow {
namespace {

/// What tokens are made of.
struct Text {
  std::vector<TextSegment> segments;
  bool add_bos = false;

  std::vector<int32_t> Encode(const Tokenizer& tokenizer,
                              const std::atomic<bool>& cancelled) const {
    return tokenizer.EncodeSegments(segments, add_bos, cancelled);
  }
};

/// Nothing when the conversation can't be rendered; then the checker knows why.
std::optional<Text> Render(const v1::ChatMessages& chat, const ServedModel& model,
                           Checker& checker) {
  if (!model.chat.has_value()) {
    checker.Violation("chat", "the model has no chat template that runs; send text or tokens");
    return std::nullopt;
  }
  const size_t violations = checker.size();
  const Conversation conversation = ReadConversation(chat, checker);
  if (checker.size() > violations) return std::nullopt;
  absl::StatusOr<std::vector<TextSegment>> prompt = model.chat->Render(conversation, absl::Now());
  if (!prompt.ok()) {
    checker.Violation("chat.messages", std::string(prompt.status().message()));
    return std::nullopt;
  }
  return Text{*std::move(prompt), /*add_bos=*/false};
}

/// The tokens of a prompt; nothing when there can only be too many: then the checker knows.
std::optional<std::vector<int32_t>> EncodePrompt(const Text& text, const char* field,
                                                 const ServedModel& model,
                                                 const std::atomic<bool>& cancelled,
                                                 Checker& checker) {
  const auto most = static_cast<size_t>(MaxPromptTokens(model));
  if (const size_t least = model.tokenizer->LeastTokens(text.segments); least > most) {
    checker.Violation(field, absl::StrCat("the prompt has more than ", least - 1,
                                          " tokens; here it may have ", most));
    return std::nullopt;
  }
  return text.Encode(*model.tokenizer, cancelled);
}

}  // namespace

size_t TextBytes(const v1::GenerateRequest& in) {
  return in.has_chat() ? TextBytes(in.chat()) : in.text().size();
}

size_t TextBytes(const v1::TokenizeRequest& in) {
  return in.has_chat() ? TextBytes(in.chat()) : in.text().size();
}

void ReadPrompt(const v1::GenerateRequest& in, const ServedModel& model,
                const std::atomic<bool>& cancelled, Checker& checker, Request* out) {
  const char* field = "";
  std::optional<Text> text;
  switch (in.prompt_case()) {
    case v1::GenerateRequest::kText:
      field = "text";
      text = Text{{{in.text(), /*parse_special=*/true}}, /*add_bos=*/true};
      break;
    case v1::GenerateRequest::kTokens:
      field = "tokens";
      checker.KnownTokens("tokens.ids", in.tokens().ids(), model.tokenizer->vocab_size());
      out->prompt_tokens.assign(in.tokens().ids().begin(), in.tokens().ids().end());
      break;
    case v1::GenerateRequest::kChat:
      field = "chat";
      text = Render(in.chat(), model, checker);
      if (!text.has_value()) return;
      break;
    case v1::GenerateRequest::PROMPT_NOT_SET:
      return checker.Violation("prompt", "one of text, tokens and chat must be set");
  }
  if (text.has_value()) {
    auto tokens = EncodePrompt(*text, field, model, cancelled, checker);
    if (!tokens.has_value()) return;
    out->prompt_tokens = *std::move(tokens);
  }

  const int prompt = static_cast<int>(out->prompt_tokens.size());
  const int left = model.context_tokens - prompt;
  const bool explicit_max = in.stop().has_max_tokens();
  out->max_tokens = explicit_max ? in.stop().max_tokens() : std::min(kDefaultMaxTokens, left);
  if (prompt == 0) {
    checker.Violation(field, "the prompt must have at least one token");
  } else if (left < 1) {
    checker.Violation(
        field, absl::StrCat("the prompt has ", prompt, " tokens; with a context of ",
                            model.context_tokens, " it may have ", model.context_tokens - 1));
  } else if (prompt > MaxPromptTokens(model)) {
    checker.Violation(field, absl::StrCat("the prompt has ", prompt, " tokens; here it may have ",
                                          MaxPromptTokens(model)));
  } else if (explicit_max && out->max_tokens > left) {
    checker.Violation("stop.max_tokens",
                      absl::StrCat("must be at most ", left, ", what a prompt of ", prompt,
                                   " tokens leaves of the context of ", model.context_tokens,
                                   ", is ", out->max_tokens));
  }
  if (explicit_max && out->max_tokens < 1) {
    checker.Violation("stop.max_tokens", absl::StrCat("must be at least 1, is ", out->max_tokens));
  }
}

std::vector<FieldViolation> ReadInput(const v1::TokenizeRequest& in, const ServedModel& model,
                                      const std::atomic<bool>& cancelled,
                                      std::vector<int32_t>* tokens) {
  Checker checker;
  std::optional<Text> text;
  switch (in.input_case()) {
    case v1::TokenizeRequest::kText:
      text = Text{{{in.text(), in.has_parse_special() ? in.parse_special() : true}},
                  in.has_add_bos() ? in.add_bos() : true};
      break;
    case v1::TokenizeRequest::kChat:
      text = Render(in.chat(), model, checker);
      break;
    case v1::TokenizeRequest::INPUT_NOT_SET:
      checker.Violation("input", "one of text and chat must be set");
      break;
  }
  if (text.has_value()) *tokens = text->Encode(*model.tokenizer, cancelled);
  return checker.Take();
}

}  // namespace winnow
