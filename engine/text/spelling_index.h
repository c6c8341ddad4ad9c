#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace winnow {

/// Tokens by their spelling.
class SpellingIndex {
 public:
  struct Match {
    size_t begin;
    size_t length;
    int32_t token;
  };

  SpellingIndex() = default;
  /// Spellings with their tokens, of equal ones the first token; empty ones and those longer than
  /// `max_bytes` are ignored: so much of a text is looked at for a place where a token may begin,
  /// and time grows with the text's length, whatever a model file spells.
  SpellingIndex(std::vector<std::pair<std::string, int32_t>> spellings, size_t max_bytes);

  bool empty() const { return spellings_.empty(); }

  /// Calls visit(length, token) with all tokens that the text begins with, the shortest first.
  template <typename Visit>
  void ForEachPrefix(std::string_view text, Visit visit) const {
    if (text.empty() || !starts_[static_cast<unsigned char>(text[0])]) return;
    // Narrow the sorted spellings byte by byte to those that the text goes on with. The shortest of
    // them comes first, so a spelling that is complete at this length is the first of the range.
    auto first = spellings_.begin(), last = spellings_.end();
    for (size_t length = 0; length < text.size() && first != last; ++length) {
      const auto byte = static_cast<unsigned char>(text[length]);
      const auto at = [length](const auto& entry) {
        return length < entry.first.size() ? static_cast<unsigned char>(entry.first[length]) : -1;
      };
      first = std::partition_point(first, last, [&](const auto& e) { return at(e) < byte; });
      last = std::partition_point(first, last, [&](const auto& e) { return at(e) == byte; });
      if (first != last && first->first.size() == length + 1) visit(length + 1, first->second);
    }
  }

  /// The token that a text has at or behind `from`: the leftmost, of several the longest. Its
  /// length is 0 if there is none.
  Match Find(std::string_view text, size_t from) const;

 private:
  std::vector<std::pair<std::string, int32_t>> spellings_;  ///< sorted
  std::array<bool, 256> starts_{};  ///< whether a spelling starts with the byte
};

}  // namespace winnow
