#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "engine/text/vocabulary.h"
#include "engine/text/word_encoder.h"

namespace winnow {

/// SentencePiece's byte pair encoding (TokenModel::kScores): neighbouring pieces are merged as long
/// as together they are a token, the best score first and of equal ones the leftmost. Characters
/// that are no token fall back to byte tokens; where there are none, a run of them is one unknown
/// token.
class ScoreEncoder final : public WordEncoder {
 public:
  /// REQUIRES: `vocabulary` outlives this object.
  explicit ScoreEncoder(const Vocabulary& vocabulary);

  void Encode(std::string_view word, const std::atomic<bool>& cancelled, EncoderMemory& memory,
              std::vector<int32_t>& tokens) const override;

 private:
  class WordRules;

  /// Appends the byte tokens of a piece that is no token.
  void AppendUnknown(std::string_view piece, bool after_unknown,
                     std::vector<int32_t>& tokens) const;
  int32_t FindPiece(std::string_view piece) const;

  const Vocabulary& vocabulary_;
  std::array<int32_t, 256> byte_tokens_;  ///< -1 for bytes that have no token
  size_t max_piece_bytes_ = 0;
  absl::flat_hash_map<std::string_view, int32_t> pieces_;  ///< as the file spells them
};

}  // namespace winnow
