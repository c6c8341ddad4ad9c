#include "server/commands/model_file.h"

#include <algorithm>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "engine/text/vocabulary.h"
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

}  // namespace

absl::StatusOr<ModelFile> ModelFile::Open(const std::string& path) {
  ModelFile file;
  absl::StatusOr<std::unique_ptr<GgufFile>> gguf = GgufFile::Open(path);
  if (!gguf.ok()) return gguf.status();
  file.gguf = *std::move(gguf);
  absl::StatusOr<ModelConfig> config = ModelConfig::FromGguf(*file.gguf);
  if (!config.ok()) return config.status();
  file.config = *std::move(config);
  const absl::StatusOr<Vocabulary> vocabulary = ReadVocabulary(*file.gguf);
  if (!vocabulary.ok()) return vocabulary.status();
  LogRecognisedMarkers(*vocabulary);
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = Tokenizer::Create(*vocabulary);
  if (!tokenizer.ok()) return tokenizer.status();
  file.tokenizer = *std::move(tokenizer);
  if (const auto jinja = file.gguf->GetString("tokenizer.chat_template"); jinja.ok()) {
    absl::StatusOr<ChatTemplate> chat = ChatTemplate::FromJinja(*jinja);
    if (chat.ok()) file.chat = *std::move(chat);
  }
  return file;
}

std::string ModelNameFromPath(const std::string& path) {
  const std::filesystem::path name = std::filesystem::path(path).filename();
  return ToUtf8(name.extension() == ".gguf" ? name.stem().string() : name.string());
}

}  // namespace winnow
