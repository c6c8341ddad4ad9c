#pragma once

#include <cstddef>
#include <string_view>

namespace winnow {

/// The bytes of the whitespace (Unicode's White_Space) that a text begins with.
size_t LeadingWhitespace(std::string_view text);
/// The bytes of the whitespace that it ends with.
size_t TrailingWhitespace(std::string_view text);

/// Whether the first character of a text may belong to a word (Unicode's \w): a letter or other
/// alphabetic character, a mark, a digit, a connector, a joiner.
bool BeginsWithWord(std::string_view text);
/// Whether the last one may.
bool EndsWithWord(std::string_view text);

/// Whether a character may belong to a word.
bool IsWordCharacter(int code_point);

}  // namespace winnow
