#include "engine/text/tokenizer.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/text/tokenizer_bpe.h"
#include "engine/text/tokenizer_sentencepiece.h"
#include "engine/text/vocabulary.h"
#include "engine/text/vocabulary_tokenizer.h"

namespace winnow {
namespace {

/// Whether a token never stands for text of its own.
bool IsControl(TokenType type) {
  return type == TokenType::kControl || type == TokenType::kUnknown || type == TokenType::kUnused;
}

SpecialTokens FindSpecialTokens(const Vocabulary& vocabulary, bool control) {
  std::vector<std::pair<std::string, int32_t>> spellings;
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    const TokenType type = vocabulary.types[i];
    if (type == TokenType::kUserDefined ||
        (control && (type == TokenType::kControl || type == TokenType::kMarker ||
                     type == TokenType::kUnknown))) {
      spellings.emplace_back(vocabulary.tokens[i], static_cast<int32_t>(i));
    }
  }
  return SpecialTokens(std::move(spellings));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Create(const Vocabulary& vocabulary) {
  if (vocabulary.model == "gpt2") return BpeTokenizer::Create(vocabulary);
  if (vocabulary.model == "llama") return SentencePieceTokenizer::Create(vocabulary);
  return absl::UnimplementedError(
      absl::StrCat("tokenizer.ggml.model is '", vocabulary.model,
                   "'; the tokenizers that Winnow knows are 'gpt2' and 'llama'."));
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromGguf(const GgufFile& file) {
  const absl::StatusOr<Vocabulary> vocabulary = ReadVocabulary(file);
  if (!vocabulary.ok()) return vocabulary.status();
  return Create(*vocabulary);
}

VocabularyTokenizer::VocabularyTokenizer(const Vocabulary& vocabulary,
                                         std::vector<std::string> token_bytes, bool adds_bos)
    : token_bytes_(std::move(token_bytes)),
      types_(vocabulary.types),
      end_of_generation_(vocabulary.end_of_generation),
      bos_token_(vocabulary.bos_token),
      adds_bos_(adds_bos),
      user_defined_(FindSpecialTokens(vocabulary, /*control=*/false)),
      all_special_(FindSpecialTokens(vocabulary, /*control=*/true)) {}

std::vector<int32_t> VocabularyTokenizer::EncodeSegments(std::span<const TextSegment> segments,
                                                         bool add_bos,
                                                         const std::atomic<bool>& cancelled) const {
  std::vector<int32_t> tokens;
  if (add_bos && adds_bos_) tokens.push_back(bos_token_);
  std::string text;  // since the last special token
  const auto encode_text = [&] {
    if (!text.empty()) EncodeText(text, cancelled, tokens);
    text.clear();
  };
  for (const TextSegment& segment : segments) {
    const SpecialTokens& special = segment.parse_special ? all_special_ : user_defined_;
    size_t begin = 0;
    while (const std::optional<SpecialTokens::Match> match = special.Find(segment.text, begin)) {
      text.append(segment.text, begin, match->begin - begin);
      encode_text();
      tokens.push_back(match->token);
      begin = match->begin + match->length;
    }
    text.append(segment.text, begin);
  }
  encode_text();
  return tokens;
}

std::string VocabularyTokenizer::TokenBytes(int32_t token, bool render_special) const {
  if (!render_special && IsControl(types_[token])) return "";
  return token_bytes_[token];
}

bool VocabularyTokenizer::IsEndOfGeneration(int32_t token) const {
  return std::binary_search(end_of_generation_.begin(), end_of_generation_.end(), token);
}

}  // namespace winnow
