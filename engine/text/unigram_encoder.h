#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <string_view>
#include <vector>

#include "engine/text/spelling_index.h"
#include "engine/text/vocabulary.h"
#include "engine/text/word_encoder.h"

namespace winnow {

/// SentencePiece's unigram model (TokenModel::kUnigram; Kudo 2018,
/// https://arxiv.org/abs/1804.10959, section 3.2): of all divisions of a word into tokens the one
/// with the greatest sum of scores (logarithms of probabilities), found by Viterbi's algorithm. A
/// character that is no token costs 10 more than the token with the least score; a run of them is
/// spelled in byte tokens where the vocabulary falls back to them and has all it takes, else it is
/// one unknown token, or none.
class UnigramEncoder final : public WordEncoder {
 public:
  /// Longer tokens are never found: they would make time grow with the square of a text's length.
  static constexpr size_t kMaxPieceBytes = 1024;

  /// REQUIRES: `vocabulary` outlives this object.
  explicit UnigramEncoder(const Vocabulary& vocabulary);

  void Encode(std::string_view word, const std::atomic<bool>& cancelled, EncoderMemory& memory,
              std::vector<int32_t>& tokens) const override;

 private:
  /// Appends the tokens of a run of unknown characters.
  void AppendUnknown(std::string_view run, std::vector<int32_t>& tokens) const;

  const Vocabulary& vocabulary_;
  SpellingIndex pieces_;
  std::array<int32_t, 256> byte_tokens_;  ///< -1 for bytes that have no token
  double unknown_score_ = 0;
};

}  // namespace winnow
