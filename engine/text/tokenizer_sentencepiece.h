#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "engine/text/vocabulary_tokenizer.h"

namespace winnow {

/// SentencePiece's byte pair encoding ("llama" in GGUF files): spaces become U+2581, and
/// neighbouring pieces are merged as long as together they are a token, the best score first and of
/// equal ones the leftmost. Characters that are no token fall back to byte tokens, or to the
/// unknown token where there are none. Takes linear time.
class SentencePieceTokenizer final : public VocabularyTokenizer {
 public:
  /// INVALID_ARGUMENT when the scores are missing.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Create(const Vocabulary& vocabulary);

  size_t LeastTokens(std::span<const TextSegment> segments) const override;
  bool StripsLeadingSpace() const override { return add_space_prefix_; }

 private:
  class TextRules;

  SentencePieceTokenizer(const Vocabulary& vocabulary, std::vector<std::string> token_bytes);

  void EncodeText(std::string_view text, const std::atomic<bool>& cancelled,
                  std::vector<int32_t>& tokens) const override;
  /// Appends the byte tokens of a piece that is no token.
  void AppendUnknown(std::string_view piece, bool after_unknown,
                     std::vector<int32_t>& tokens) const;
  int32_t FindPiece(std::string_view piece) const;

  const std::vector<float> scores_;
  const int32_t unknown_token_;
  const bool add_space_prefix_;
  std::array<int32_t, 256> byte_tokens_;  ///< -1 for bytes that have no token
  size_t max_piece_bytes_ = 0;
  size_t max_spelling_bytes_ = 1;                     ///< of any token, with U+2581
  absl::flat_hash_map<std::string, int32_t> pieces_;  ///< as the file spells them, with U+2581
};

}  // namespace winnow
