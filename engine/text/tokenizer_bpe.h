#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "engine/text/pair_merger.h"
#include "engine/text/pretokenizer.h"
#include "engine/text/vocabulary_tokenizer.h"

namespace winnow {

/// Byte-level byte pair encoding ("gpt2" in GGUF files): the text is split into words, each word
/// into bytes, and neighbouring tokens are merged, the most important merge first and of equal ones
/// the leftmost. Takes linear time, however long words are.
class BpeTokenizer final : public VocabularyTokenizer {
 public:
  /// UNIMPLEMENTED for an unknown pre-tokenizer; INVALID_ARGUMENT when merges are missing or name
  /// tokens that the vocabulary does not have as normal or user-defined ones. Of tokens that are
  /// spelled alike the first one is used.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Create(const Vocabulary& vocabulary);

  size_t LeastTokens(std::span<const TextSegment> segments) const override;
  bool StripsLeadingSpace() const override { return false; }

 private:
  struct Merge {
    int32_t rank;  ///< lower merges first
    int32_t token;
  };
  class WordRules;

  BpeTokenizer(const Vocabulary& vocabulary, const Pretokenizer& pretokenizer,
               std::vector<std::string> token_bytes);

  absl::Status ReadMerges(const Vocabulary& vocabulary);
  void FindWholeWords(const Vocabulary& vocabulary);

  void EncodeText(std::string_view text, const std::atomic<bool>& cancelled,
                  std::vector<int32_t>& tokens) const override;
  void MergeWord(std::string_view word, const std::atomic<bool>& cancelled, PairMerger& merger,
                 std::vector<int32_t>& tokens) const;

  const Pretokenizer pretokenizer_;
  std::array<int32_t, 256> byte_tokens_;  ///< -1 for bytes that the vocabulary lacks
  size_t max_token_bytes_ = 1;
  absl::flat_hash_map<uint64_t, Merge> merges_;  ///< by left token << 32 | right token
  /// Words that become one token, so that they need no merging: most of ordinary text.
  absl::flat_hash_map<std::string_view, int32_t> whole_words_;
};

}  // namespace winnow
