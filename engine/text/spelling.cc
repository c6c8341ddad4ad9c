#include "engine/text/spelling.h"

#include <unicode/utf8.h>

#include <array>

namespace winnow {
namespace {

/// The byte that each code point stands for, or -1.
std::array<int, 512> SpelledBytes() {
  std::array<int, 512> bytes;
  bytes.fill(-1);
  size_t next = 256;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte != 0xAD);
    bytes[printable ? static_cast<size_t>(byte) : next++] = byte;
  }
  return bytes;
}

}  // namespace

std::string DecodeByteSpelling(std::string_view spelling) {
  static const std::array<int, 512> kBytes = SpelledBytes();
  std::string bytes;
  for (size_t i = 0; i < spelling.size();) {
    const size_t begin = i;
    UChar32 c;
    U8_NEXT(spelling.data(), i, spelling.size(), c);
    if (c >= 0 && c < static_cast<UChar32>(kBytes.size()) && kBytes[c] >= 0) {
      bytes.push_back(static_cast<char>(kBytes[c]));
    } else {
      bytes.append(spelling.substr(begin, i - begin));
    }
  }
  return bytes;
}

std::string UnmarkSpaces(std::string_view spelling, std::string_view mark) {
  std::string text;
  for (size_t begin = 0;;) {
    const size_t found = spelling.find(mark, begin);
    text.append(spelling.substr(begin, found - begin));
    if (found == std::string_view::npos) return text;
    text.push_back(' ');
    begin = found + mark.size();
  }
}

}  // namespace winnow
