#include "server/commands/model_file.h"

#include <filesystem>
#include <utility>

namespace winnow {

absl::StatusOr<ModelFile> ModelFile::Open(const std::string& path) {
  ModelFile file;
  absl::StatusOr<std::unique_ptr<GgufFile>> gguf = GgufFile::Open(path);
  if (!gguf.ok()) return gguf.status();
  file.gguf = *std::move(gguf);
  absl::StatusOr<ModelConfig> config = ModelConfig::FromGguf(*file.gguf);
  if (!config.ok()) return config.status();
  file.config = *std::move(config);
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = Tokenizer::FromGguf(*file.gguf);
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
  return name.extension() == ".gguf" ? name.stem().string() : name.string();
}

}  // namespace winnow
