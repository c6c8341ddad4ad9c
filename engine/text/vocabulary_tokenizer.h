#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "engine/text/spelling_index.h"
#include "engine/text/tokenizer.h"
#include "engine/text/vocabulary.h"
#include "engine/text/word_encoder.h"

namespace winnow {

/// The tokenizer of a vocabulary: tokens that are found by their spelling cut the text; what lies
/// between is normalised, split into words, and encoded word by word.
class VocabularyTokenizer final : public Tokenizer {
 public:
  /// Longer spellings of control, marker and user-defined tokens are never found.
  static constexpr size_t kMaxSpellingBytes = 256;

  /// REQUIRES: a vocabulary as its readers return it, with all that its model needs.
  explicit VocabularyTokenizer(Vocabulary vocabulary);

  std::vector<int32_t> EncodeSegments(std::span<const TextSegment> segments, bool add_bos,
                                      const std::atomic<bool>& cancelled) const override;
  size_t LeastTokens(std::span<const TextSegment> segments) const override;
  std::string TokenBytes(int32_t token, bool render_special) const override;

  int32_t vocab_size() const override { return static_cast<int32_t>(vocabulary_.tokens.size()); }
  int32_t bos_token() const override { return vocabulary_.bos_token; }
  bool IsEndOfGeneration(int32_t token) const override;
  bool StripsLeadingSpace() const override { return vocabulary_.strips_leading_space; }

 private:
  struct Encoding;  ///< a call's
  /// A stretch of a text in which some tokens are found.
  struct Stretch {
    size_t begin;
    size_t end;
    const SpellingIndex* special;
  };

  /// Which tokens are found in which texts.
  enum class Finding { kPlain, kSpecial, kNormalized };
  SpellingIndex IndexOf(Finding finding) const;

  /// Cuts a text at the tokens that its stretches hold: calls `visit_text` with what lies between,
  /// and appends the tokens.
  void Cut(std::string_view text, std::span<const Stretch> stretches, Encoding& encoding,
           absl::FunctionRef<void(std::string_view text, bool at_start)> visit_text) const;
  /// Appends the tokens of a text, never empty, that holds no tokens that are found as spelled.
  void EncodeText(std::string_view text, bool at_start, Encoding& encoding) const;
  void EncodeWords(std::string_view text, bool at_start, Encoding& encoding) const;

  Vocabulary vocabulary_;
  std::unique_ptr<const WordEncoder> encoder_;  ///< refers to `vocabulary_`
  SpellingIndex plain_;                         ///< found in every text
  SpellingIndex special_;                       ///< found on request
  SpellingIndex normalized_;                    ///< found in every text that has been normalised
  size_t max_token_bytes_ = 1;                  ///< of a text that is normalised and split
  bool strips_whitespace_ = false;
};

}  // namespace winnow
