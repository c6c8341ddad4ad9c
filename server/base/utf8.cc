#include "server/base/utf8.h"

namespace winnow {
namespace {

/// Bytes of the character that the text begins with; 0 if it begins with none. The second byte's
/// bounds leave out spellings that are too long, surrogates, and what lies beyond U+10FFFF
/// (Unicode, table 3-7).
size_t CharacterBytes(std::string_view text) {
  const auto byte = [&](size_t i) {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u;
  };
  const unsigned first = byte(0);
  if (first < 0x80) return 1;
  const size_t length = first >= 0xC2 && first <= 0xDF   ? 2
                        : first >= 0xE0 && first <= 0xEF ? 3
                        : first >= 0xF0 && first <= 0xF4 ? 4
                                                         : 0;
  const unsigned low = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
  const unsigned high = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
  if (length == 0 || byte(1) < low || byte(1) > high) return 0;
  for (size_t i = 2; i < length; ++i) {
    if (byte(i) < 0x80 || byte(i) > 0xBF) return 0;
  }
  return length;
}

}  // namespace

size_t Utf8PrefixBytes(std::string_view text) {
  size_t bytes = 0;
  while (bytes < text.size()) {
    const size_t character = CharacterBytes(text.substr(bytes));
    if (character == 0) break;
    bytes += character;
  }
  return bytes;
}

std::string_view WithoutByteOrderMark(std::string_view text) {
  constexpr std::string_view kMark = "\uFEFF";
  if (text.substr(0, kMark.size()) == kMark) text.remove_prefix(kMark.size());
  return text;
}

std::string ToUtf8(std::string_view text) {
  std::string result;
  while (!text.empty()) {
    const size_t bytes = Utf8PrefixBytes(text);
    result.append(text.substr(0, bytes));
    text.remove_prefix(bytes);
    if (text.empty()) break;
    result.append("\uFFFD");
    text.remove_prefix(1);
  }
  return result;
}

}  // namespace winnow
