#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace winnow {

/// Bytes of the longest beginning that is UTF-8: all of them if the text is.
size_t Utf8PrefixBytes(std::string_view text);

inline bool IsUtf8(std::string_view text) { return Utf8PrefixBytes(text) == text.size(); }

/// The text without the byte order mark that some editors put in front.
std::string_view WithoutByteOrderMark(std::string_view text);

/// The text with U+FFFD in place of every byte that is not part of a character.
std::string ToUtf8(std::string_view text);

}  // namespace winnow
