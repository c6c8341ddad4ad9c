#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <string_view>
#include <utility>

namespace winnow {

constexpr std::string_view kReplacement = "\uFFFD";

/// A code point as UTF-8, computed apart from the code under test.
inline std::string Utf8(uint32_t c) {
  const auto trail = [c](int shift) { return static_cast<char>(0x80 | (c >> shift & 0x3F)); };
  if (c < 0x80) return {static_cast<char>(c)};
  if (c < 0x800) return {static_cast<char>(0xC0 | c >> 6), trail(0)};
  if (c < 0x10000) return {static_cast<char>(0xE0 | c >> 12), trail(6), trail(0)};
  return {static_cast<char>(0xF0 | c >> 18), trail(12), trail(6), trail(0)};
}

/// Valid UTF-8 of up to `max_characters`: all of Unicode, with as much ASCII and whitespace as it
/// takes to make words.
inline std::string RandomText(std::mt19937& rng, int max_characters) {
  const auto below = [&rng](uint32_t limit) { return rng() % limit; };
  std::string text;
  for (uint32_t left = below(static_cast<uint32_t>(max_characters) + 1); left > 0; --left) {
    uint32_t c;
    switch (below(8)) {
      case 0:
      case 1:
        c = 'a' + below(26);
        break;
      case 2:
        c = below(0x80);
        break;
      case 3:
        c = std::string("  \n\t\r'")[below(6)];
        break;
      case 4:
        c = below(0x800);
        break;
      case 5:
        c = 0x4E00 + below(0x100);
        break;
      case 6:
        c = 0x1F300 + below(0x200);
        break;
      default:
        c = below(0x110000);
        break;
    }
    if (c >= 0xD800 && c < 0xE000) c = ' ';  // surrogates have no UTF-8
    text += Utf8(c);
  }
  return text;
}

/// Bytes of all values, with the ones that begin and go on characters more often.
inline std::string RandomBytes(std::mt19937& rng, int max_bytes) {
  std::string bytes;
  for (uint32_t left = rng() % (static_cast<uint32_t>(max_bytes) + 1); left > 0; --left) {
    const uint32_t byte = rng() % 2 == 0 ? rng() : 0x80 + rng() % 0x80;
    bytes.push_back(static_cast<char>(byte));
  }
  return bytes;
}

/// How many bytes from `begin` on are the longest beginning of a well-formed character (Unicode's
/// table 3-7), and whether they are a whole one. 0 if there is no beginning.
inline std::pair<size_t, bool> LongestCharacterBeginning(std::string_view bytes, size_t begin) {
  const auto byte = [&](size_t i) -> int {
    return begin + i < bytes.size() ? static_cast<unsigned char>(bytes[begin + i]) : -1;
  };
  const int lead = byte(0);
  if (lead < 0x80) return {1, true};
  if (lead < 0xC2 || lead > 0xF4) return {0, false};
  const size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  for (size_t i = 1; i < length; ++i) {
    int low = 0x80, high = 0xBF;
    if (i == 1 && lead == 0xE0) low = 0xA0;
    if (i == 1 && lead == 0xED) high = 0x9F;
    if (i == 1 && lead == 0xF0) low = 0x90;
    if (i == 1 && lead == 0xF4) high = 0x8F;
    if (byte(i) < low || byte(i) > high) return {i, false};
  }
  return {length, true};
}

/// The bytes with every beginning of a character that does not go on as one, and every byte that
/// begins none, replaced by U+FFFD.
inline std::string RepairUtf8(std::string_view bytes) {
  std::string text;
  for (size_t i = 0; i < bytes.size();) {
    const auto [length, whole] = LongestCharacterBeginning(bytes, i);
    text += whole ? bytes.substr(i, length) : kReplacement;
    i += std::max<size_t>(length, 1);
  }
  return text;
}

inline bool IsValidUtf8(std::string_view bytes) { return RepairUtf8(bytes) == bytes; }

}  // namespace winnow
