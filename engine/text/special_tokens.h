#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace winnow {

/// Finds tokens that are spelled out in a text, the leftmost first, of several the longest.
class SpecialTokens {
 public:
  struct Match {
    size_t begin;
    size_t length;
    int32_t token;
  };

  /// Of the text, no more is looked at for a place where a token may begin: time grows with the
  /// text's length, whatever a model file spells.
  static constexpr size_t kMaxSpellingBytes = 256;

  /// Spellings with their tokens; empty ones and longer ones than kMaxSpellingBytes are ignored.
  explicit SpecialTokens(std::vector<std::pair<std::string, int32_t>> spellings);

  /// The first match that starts at or after `from`.
  std::optional<Match> Find(std::string_view text, size_t from) const;

 private:
  std::vector<std::pair<std::string, int32_t>> spellings_;  ///< sorted
  std::array<bool, 256> starts_{};  ///< whether a spelling starts with the byte
};

}  // namespace winnow
