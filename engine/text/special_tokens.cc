#include "engine/text/special_tokens.h"

#include <algorithm>

namespace winnow {

SpecialTokens::SpecialTokens(std::vector<std::pair<std::string, int32_t>> spellings)
    : spellings_(std::move(spellings)) {
  std::erase_if(spellings_, [](const auto& entry) {
    return entry.first.empty() || entry.first.size() > kMaxSpellingBytes;
  });
  std::sort(spellings_.begin(), spellings_.end());
  for (const auto& [spelling, token] : spellings_) {
    starts_[static_cast<unsigned char>(spelling[0])] = true;
  }
}

std::optional<SpecialTokens::Match> SpecialTokens::Find(std::string_view text, size_t from) const {
  for (size_t begin = from; begin < text.size(); ++begin) {
    if (!starts_[static_cast<unsigned char>(text[begin])]) continue;
    // Narrow the sorted spellings byte by byte to those that the text goes on with. The shortest of
    // them comes first, so a spelling that is complete at this length is the first of the range.
    std::optional<Match> longest;
    auto first = spellings_.begin(), last = spellings_.end();
    for (size_t length = 0; begin + length < text.size() && first != last; ++length) {
      const auto byte = static_cast<unsigned char>(text[begin + length]);
      const auto at = [length](const auto& entry) {
        return length < entry.first.size() ? static_cast<unsigned char>(entry.first[length]) : -1;
      };
      first = std::partition_point(first, last, [&](const auto& e) { return at(e) < byte; });
      last = std::partition_point(first, last, [&](const auto& e) { return at(e) == byte; });
      if (first != last && first->first.size() == length + 1) {
        longest = Match{begin, length + 1, first->second};
      }
    }
    if (longest) return longest;
  }
  return std::nullopt;
}

}  // namespace winnow
