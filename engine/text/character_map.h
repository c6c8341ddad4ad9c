#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/text/regex.h"

namespace winnow {

/// A map of characters, and of a few of them in a row, to texts: what SentencePiece's models
/// normalise by (`precompiled_charsmap`). SentencePiece and Hugging Face's library read it in
/// different ways. Both take time linear in the text, of which none becomes more than
/// kMaxGrowth times as long. Immutable.
///
/// The bytes: the size of a trie, 4 bytes, little endian; the trie, units of 4 bytes, as
/// Darts-clone lays out a double array (https://github.com/s-yata/darts-clone); then the texts,
/// each ended by a byte of 0, which the trie's values are offsets in.
class CharacterMap {
 public:
  static constexpr size_t kMaxGrowth = 16;
  static constexpr size_t kMaxSpellingBytes = 64;  ///< longer ones are never found

  /// INVALID_ARGUMENT, a clause that says what the bytes have, when they are no such map.
  static absl::StatusOr<std::shared_ptr<const CharacterMap>> Parse(std::string_view bytes);

  /// As SentencePiece does: from left to right the longest spelling that is there becomes its text;
  /// a byte that is not of UTF-8 becomes U+FFFD.
  std::string Apply(std::string_view text) const;

  /// As Hugging Face's library does: what a reader takes for one character, of less than 6 bytes,
  /// becomes the text of the shortest spelling that it begins with, else each of its code points.
  std::string ApplyToGraphemes(std::string_view text) const;

  /// Whether anything becomes nothing.
  bool removes() const { return removes_; }

  /// Whether anything becomes spaces in a row.
  bool makes_spaces() const { return contents_.find("  ") != std::string::npos; }

 private:
  struct Match {
    size_t bytes = 0;  ///< of the spelling; 0: none was found
    std::string_view content;
  };

  CharacterMap() = default;

  absl::Status Check();
  std::string_view ContentAt(uint32_t unit) const;
  Match Find(std::string_view text, bool longest) const;

  std::vector<uint32_t> units_;
  std::string contents_;
  std::shared_ptr<const Regex> grapheme_;
  bool removes_ = false;
};

}  // namespace winnow
