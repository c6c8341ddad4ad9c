#include "engine/text/spelling_index.h"

namespace winnow {

SpellingIndex::SpellingIndex(std::vector<std::pair<std::string, int32_t>> spellings,
                             size_t max_bytes)
    : spellings_(std::move(spellings)) {
  std::erase_if(spellings_, [max_bytes](const auto& entry) {
    return entry.first.empty() || entry.first.size() > max_bytes;
  });
  std::sort(spellings_.begin(), spellings_.end());
  for (const auto& [spelling, token] : spellings_) {
    starts_[static_cast<unsigned char>(spelling[0])] = true;
  }
}

SpellingIndex::Match SpellingIndex::Find(std::string_view text, size_t from) const {
  if (empty()) return {text.size(), 0, -1};
  for (size_t begin = from; begin < text.size(); ++begin) {
    if (!starts_[static_cast<unsigned char>(text[begin])]) continue;
    Match longest = {begin, 0, -1};
    ForEachPrefix(text.substr(begin), [&longest](size_t length, int32_t token) {
      longest.length = length;
      longest.token = token;
    });
    if (longest.length > 0) return longest;
  }
  return {text.size(), 0, -1};
}

}  // namespace winnow
