#include "engine/text/characters.h"

#include <unicode/uchar.h>
#include <unicode/utf8.h>

namespace winnow {
namespace {

/// The first character and its bytes; below 0 if it is not UTF-8, or there is none.
UChar32 First(std::string_view text, size_t& bytes) {
  bytes = 0;
  if (text.empty()) return -1;
  UChar32 c;
  U8_NEXT(text.data(), bytes, text.size(), c);
  return c;
}

UChar32 Last(std::string_view text, size_t& bytes) {
  bytes = 0;
  if (text.empty()) return -1;
  // U8_PREV takes signed positions; a character has few bytes.
  const std::string_view tail = text.substr(text.size() - (text.size() < 8 ? text.size() : 8));
  auto position = static_cast<int32_t>(tail.size());
  UChar32 c;
  U8_PREV(tail.data(), 0, position, c);
  bytes = tail.size() - static_cast<size_t>(position);
  return c;
}

}  // namespace

bool IsWordCharacter(int code_point) {
  return u_hasBinaryProperty(code_point, UCHAR_ALPHABETIC) ||
         u_hasBinaryProperty(code_point, UCHAR_JOIN_CONTROL) ||
         (U_MASK(u_charType(code_point)) & (U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK)) != 0;
}

size_t LeadingWhitespace(std::string_view text) {
  size_t begin = 0, bytes;
  for (UChar32 c = First(text, bytes); c >= 0 && u_isUWhiteSpace(c);
       c = First(text.substr(begin), bytes)) {
    begin += bytes;
  }
  return begin;
}

size_t TrailingWhitespace(std::string_view text) {
  const size_t size = text.size();
  size_t bytes;
  for (UChar32 c = Last(text, bytes); c >= 0 && u_isUWhiteSpace(c); c = Last(text, bytes)) {
    text.remove_suffix(bytes);
  }
  return size - text.size();
}

bool BeginsWithWord(std::string_view text) {
  size_t bytes;
  const UChar32 c = First(text, bytes);
  return c >= 0 && IsWordCharacter(c);
}

bool EndsWithWord(std::string_view text) {
  size_t bytes;
  const UChar32 c = Last(text, bytes);
  return c >= 0 && IsWordCharacter(c);
}

}  // namespace winnow
