#pragma once

#include <atomic>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/text/special_tokens.h"
#include "engine/text/tokenizer.h"
#include "engine/text/vocabulary.h"

namespace winnow {

/// What the tokenizer models have in common: tokens found by their spelling cut the text, and each
/// model encodes what lies between.
class VocabularyTokenizer : public Tokenizer {
 public:
  std::vector<int32_t> EncodeSegments(std::span<const TextSegment> segments, bool add_bos,
                                      const std::atomic<bool>& cancelled) const override;
  std::string TokenBytes(int32_t token, bool render_special) const override;

  int32_t vocab_size() const override { return static_cast<int32_t>(token_bytes_.size()); }
  int32_t bos_token() const override { return bos_token_; }
  bool IsEndOfGeneration(int32_t token) const override;

 protected:
  /// `token_bytes` are the bytes that each token stands for, a control token's being its spelling;
  /// `adds_bos` tells whether the model wants BOS. REQUIRES: a BOS token if it does.
  VocabularyTokenizer(const Vocabulary& vocabulary, std::vector<std::string> token_bytes,
                      bool adds_bos);

  /// Appends the tokens of a text, never empty, that holds no special tokens, or some of them once
  /// `cancelled` is set.
  virtual void EncodeText(std::string_view text, const std::atomic<bool>& cancelled,
                          std::vector<int32_t>& tokens) const = 0;

  /// For the derived class's tables, which refer to these bytes.
  const std::vector<std::string>& token_bytes() const { return token_bytes_; }

 private:
  const std::vector<std::string> token_bytes_;
  const std::vector<TokenType> types_;
  const std::vector<int32_t> end_of_generation_;
  const int32_t bos_token_;
  const bool adds_bos_;
  const SpecialTokens user_defined_;  ///< parsed in every text
  const SpecialTokens all_special_;   ///< parsed on request
};

}  // namespace winnow
