#include "server/commands/model_file.h"

#include <algorithm>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "engine/text/checkpoint_text.h"
#include "server/base/utf8.h"
#include "server/observability/log.h"

namespace winnow {
namespace {

constexpr size_t kMaxNamedMarkers = 16;

/// A file that types its markers as text was made by mistake; whoever serves it should know.
void LogRecognisedMarkers(const Vocabulary& vocabulary) {
  const std::vector<int32_t>& tokens = vocabulary.recognised;
  if (tokens.empty()) return;
  std::string spellings;
  for (size_t i = 0; i < std::min(tokens.size(), kMaxNamedMarkers); ++i) {
    spellings.append(i == 0 ? "" : " ").append(vocabulary.tokens[tokens[i]]);
  }
  Log(LogLevel::kWarning, "markers_recognised",
      {{"count", tokens.size()},
       {"tokens", spellings},
       {"hint", "tokenizer.ggml.token_type has them as text; taken for control tokens"}});
}

/// A name without the "-00001-of-00003" that those of parts end in.
std::string WithoutPart(const std::string& name) {
  constexpr std::string_view kEnd = "-00000-of-00000";
  if (name.size() <= kEnd.size()) return name;
  const size_t stem = name.size() - kEnd.size();
  for (size_t i = 0; i < kEnd.size(); ++i) {
    const char c = name[stem + i];
    if (kEnd[i] == '0' ? !absl::ascii_isdigit(static_cast<unsigned char>(c)) : c != kEnd[i]) {
      return name;
    }
  }
  return name.substr(0, stem);
}

/// REQUIRES: there is one.
absl::StatusOr<ChatTemplate> ReadChatTemplate(const CheckpointText& text) {
  const Vocabulary& vocabulary = text.vocabulary;
  ChatTemplate::Source source = {.jinja = *text.chat_template,
                                 .tool_use = text.tool_use_template.value_or("")};
  for (const auto& [name, token] :
       {std::pair("bos_token", vocabulary.bos_token), std::pair("eos_token", vocabulary.eos_token),
        std::pair("unk_token", vocabulary.unknown_token)}) {
    if (token >= 0) source.tokens.emplace_back(name, vocabulary.tokens[token]);
  }
  absl::StatusOr<ChatTemplate> chat = ChatTemplate::Create(source);
  if (chat.ok()) return chat;
  return absl::InvalidArgumentError(
      absl::StrCat("the chat template can't be run: ", chat.status().message()));
}

}  // namespace

absl::StatusOr<ModelFile> ModelFile::Open(const std::string& path, int context) {
  ModelFile file;
  absl::StatusOr<std::unique_ptr<Checkpoint>> checkpoint = Checkpoint::Open(path, context);
  if (!checkpoint.ok()) return checkpoint.status();
  file.checkpoint = *std::move(checkpoint);
  const GgufFile* gguf = file.checkpoint->gguf();
  absl::StatusOr<CheckpointText> text = gguf != nullptr
                                            ? CheckpointText::FromGguf(*gguf)
                                            : CheckpointText::FromFolder(path, file.config().vocab);
  if (!text.ok()) return text.status();
  file.text = *std::move(text);
  LogRecognisedMarkers(file.text.vocabulary);
  if (file.text.chat_template) file.chat = ReadChatTemplate(file.text);
  return file;
}

std::string ModelNameFromPath(const std::string& path) {
  const std::filesystem::path whole(path);
  // A folder's may end in a slash.
  const std::filesystem::path name =
      whole.has_filename() ? whole.filename() : whole.parent_path().filename();
  if (name.extension() != ".gguf") return ToUtf8(name.string());
  return ToUtf8(WithoutPart(name.stem().string()));
}

}  // namespace winnow
