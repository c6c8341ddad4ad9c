#include "engine/text/tokenizer.h"

#include <utility>

#include "engine/text/vocabulary.h"
#include "engine/text/vocabulary_tokenizer.h"

namespace winnow {

std::unique_ptr<Tokenizer> Tokenizer::Create(const Vocabulary& vocabulary) {
  return std::make_unique<VocabularyTokenizer>(vocabulary);
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromGguf(const GgufFile& file) {
  const absl::StatusOr<Vocabulary> vocabulary = ReadVocabulary(file);
  if (!vocabulary.ok()) return vocabulary.status();
  return Create(*vocabulary);
}

}  // namespace winnow
