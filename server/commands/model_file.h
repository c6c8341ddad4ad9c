#pragma once

#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "engine/model/config.h"
#include "engine/model/gguf.h"
#include "engine/text/chat_template.h"
#include "engine/text/tokenizer.h"

namespace winnow {

/// A model file and what reads it: everything but the weights.
struct ModelFile {
  std::unique_ptr<GgufFile> gguf;
  ModelConfig config;
  std::unique_ptr<Tokenizer> tokenizer;
  std::optional<ChatTemplate> chat;  ///< none when the file has no template that Winnow knows

  /// Errors are those of GgufFile::Open, ModelConfig::FromGguf, ReadVocabulary and
  /// Tokenizer::Create. Logs which markers are known by their looks only.
  static absl::StatusOr<ModelFile> Open(const std::string& path);
};

/// The file's name without directory and ".gguf", in UTF-8: what a model is called when nobody
/// says.
std::string ModelNameFromPath(const std::string& path);

}  // namespace winnow
