#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/engine/text/golden.h"
#include "tests/engine/text/vocabulary_file.h"

namespace winnow {

/// The vocabulary of a model in tokenizer_bpe.json.
inline VocabularyFile BpeVocabulary(const nlohmann::json& model) {
  VocabularyFile file{.model = "gpt2", .pre = model["pre"], .tokens = model["tokens"]};
  file.types.assign(file.tokens.size(), VocabularyFile::kNormal);
  // They were trained first.
  for (size_t i = 0; i < model["special"].size(); ++i) file.types[i] = VocabularyFile::kControl;
  file.merges = model["merges"].get<std::vector<std::string>>();
  file.add_bos = false;
  return file;
}

/// The vocabulary of a model in tokenizer_sentencepiece.json.
inline VocabularyFile SentencePieceVocabulary(const nlohmann::json& model) {
  return {.model = "llama",
          .tokens = model["tokens"],
          .types = model["types"],
          .scores = model["scores"],
          .bos = 1,
          .eos = 2,
          .unknown = 0,
          .add_bos = false,
          .add_space_prefix = model["add_space_prefix"].get<bool>()};
}

}  // namespace winnow
