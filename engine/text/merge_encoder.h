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

/// Byte pair encoding by the rank of merges: a word is split into bytes (TokenModel::kByteMerges)
/// or characters (kCharacterMerges), and neighbouring tokens are merged, the most important merge
/// first and of equal ones the leftmost. Characters without a token are spelled in byte tokens
/// where the vocabulary falls back to them and has all of the character's, else they are the
/// unknown token, else they are left out.
class MergeEncoder final : public WordEncoder {
 public:
  /// REQUIRES: `vocabulary` outlives this object, but for its merges.
  explicit MergeEncoder(const Vocabulary& vocabulary);

  void Encode(std::string_view word, const std::atomic<bool>& cancelled, EncoderMemory& memory,
              std::vector<int32_t>& tokens) const override;

 private:
  struct Merge {
    int32_t rank;  ///< lower merges first
    int32_t token;
  };
  /// What a word has at a place: the bytes up to `end`.
  struct Symbol {
    size_t end;
    int32_t token;  ///< -1: nothing
    bool unknown;
  };
  class WordRules;

  void FindWholeWords(const std::vector<std::string>& spellings);
  Symbol SymbolAt(std::string_view word, size_t position) const;
  void MergeWord(std::string_view word, const std::atomic<bool>& cancelled, EncoderMemory& memory,
                 std::vector<int32_t>& tokens) const;

  const Vocabulary& vocabulary_;
  const bool by_bytes_;
  /// Tokens of single bytes: those that bytes are split into, or that characters fall back to; -1
  /// for bytes that the vocabulary lacks.
  std::array<int32_t, 256> byte_tokens_;
  absl::flat_hash_map<std::string_view, int32_t> characters_;  ///< of one that is split into them
  absl::flat_hash_map<uint64_t, Merge> merges_;  ///< by left token << 32 | right token
  /// Words that become one token, so that they need no merging: most of ordinary text.
  absl::flat_hash_map<std::string_view, int32_t> whole_words_;
};

}  // namespace winnow
