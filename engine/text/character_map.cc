#include "engine/text/character_map.h"

#include <unicode/utf8.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace winnow {
namespace {

constexpr size_t kUnitBytes = sizeof(uint32_t);
constexpr size_t kMaxMappedBytes = 5;  // of a grapheme that is mapped as one

// A unit of the double array is either a node or, where a node ends a spelling, a value.
bool EndsSpelling(uint32_t node) { return (node >> 8 & 1) != 0; }
uint32_t Value(uint32_t unit) { return unit & 0x7fffffff; }
/// The byte that leads to a node; of a value none that a byte equals.
uint32_t Label(uint32_t unit) { return unit & 0x800000ff; }
/// From a node to the unit that those behind it are counted from: by exclusive or.
uint32_t Offset(uint32_t node) { return node >> 10 << ((node & 1 << 9) >> 6); }

absl::Status Fault(const std::string& what) { return absl::InvalidArgumentError(what); }

uint32_t LoadWord(const char* bytes) {
  uint32_t word = 0;
  std::memcpy(&word, bytes, sizeof(word));
  return word;
}

}  // namespace

absl::StatusOr<std::shared_ptr<const CharacterMap>> CharacterMap::Parse(std::string_view bytes) {
  const size_t trie_bytes = bytes.size() < kUnitBytes ? 0 : LoadWord(bytes.data());
  if (trie_bytes == 0 || trie_bytes % kUnitBytes != 0 || trie_bytes > bytes.size() - kUnitBytes) {
    return Fault("has a trie that does not fit");
  }
  std::shared_ptr<CharacterMap> map(new CharacterMap());
  map->units_.resize(trie_bytes / kUnitBytes);
  std::memcpy(map->units_.data(), bytes.data() + kUnitBytes, trie_bytes);
  map->contents_ = std::string(bytes.substr(kUnitBytes + trie_bytes));
  absl::StatusOr<std::shared_ptr<const Regex>> grapheme = Regex::Compile("\\X");
  if (!grapheme.ok()) return grapheme.status();
  map->grapheme_ = *std::move(grapheme);
  if (absl::Status status = map->Check(); !status.ok()) return status;
  return map;
}

absl::Status CharacterMap::Check() {
  if (!contents_.ends_with('\0')) return Fault("has texts without an end");
  // Each node once, those of short spellings first: the shortest way to a node makes most of it.
  std::vector<bool> seen(units_.size());
  std::vector<uint32_t> nodes = {Offset(units_[0])};
  for (size_t length = 1; !nodes.empty() && length <= kMaxSpellingBytes; ++length) {
    std::vector<uint32_t> next;
    for (const uint32_t node : nodes) {
      for (uint32_t byte = 1; byte < 256; ++byte) {
        const size_t at = node ^ byte;
        if (at >= units_.size() || Label(units_[at]) != byte || seen[at]) continue;
        seen[at] = true;
        const uint32_t behind = static_cast<uint32_t>(at) ^ Offset(units_[at]);
        next.push_back(behind);
        if (!EndsSpelling(units_[at])) continue;
        if (behind >= units_.size() || Value(units_[behind]) >= contents_.size()) {
          return Fault("names a text that is not there");
        }
        const size_t content_bytes = ContentAt(units_[behind]).size();
        if (content_bytes > kMaxGrowth * length) {
          return Fault(absl::StrCat("makes texts more than ", kMaxGrowth, " times as long"));
        }
        removes_ = removes_ || content_bytes == 0;
      }
    }
    nodes = std::move(next);
  }
  return absl::OkStatus();
}

std::string_view CharacterMap::ContentAt(uint32_t unit) const {
  const std::string_view rest = std::string_view(contents_).substr(Value(unit));
  return rest.substr(0, rest.find('\0'));
}

CharacterMap::Match CharacterMap::Find(std::string_view text, bool longest) const {
  Match match;
  uint32_t node = Offset(units_[0]);
  for (size_t i = 0; i < std::min(text.size(), kMaxSpellingBytes); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const size_t at = node ^ byte;
    if (byte == 0 || at >= units_.size() || Label(units_[at]) != byte) break;
    node = static_cast<uint32_t>(at) ^ Offset(units_[at]);
    if (!EndsSpelling(units_[at])) continue;
    match = {i + 1, ContentAt(units_[node])};
    if (!longest) break;
  }
  return match;
}

std::string CharacterMap::Apply(std::string_view text) const {
  std::string mapped;
  mapped.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    if (const Match match = Find(text.substr(i), /*longest=*/true); match.bytes > 0) {
      mapped.append(match.content);
      i += match.bytes;
      continue;
    }
    const size_t begin = i;
    UChar32 c;
    U8_NEXT(text.data(), i, text.size(), c);
    if (c >= 0) {
      mapped.append(text.substr(begin, i - begin));
    } else {
      mapped.append("\uFFFD");
      i = begin + 1;
    }
  }
  return mapped;
}

std::string CharacterMap::ApplyToGraphemes(std::string_view text) const {
  std::string mapped;
  mapped.reserve(text.size());
  const auto map = [&](std::string_view part) {
    const Match match = Find(part, /*longest=*/false);
    if (match.bytes > 0) mapped.append(match.content);
    return match.bytes > 0;
  };
  size_t done = 0;
  grapheme_->ForEachMatch(text, [&](size_t begin, size_t end) {
    done = end;
    const std::string_view grapheme = text.substr(begin, end - begin);
    if (grapheme.size() <= kMaxMappedBytes && map(grapheme)) return true;
    for (size_t i = 0; i < grapheme.size();) {
      const size_t first = i;
      U8_FWD_1(grapheme.data(), i, grapheme.size());
      const std::string_view character = grapheme.substr(first, i - first);
      if (!map(character)) mapped.append(character);
    }
    return true;
  });
  return mapped.append(text.substr(done));
}

}  // namespace winnow
