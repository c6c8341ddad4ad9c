#pragma once

#include <string>
#include <string_view>

namespace winnow {

/// What stands for a space in vocabularies made by SentencePiece: U+2581.
inline constexpr std::string_view kSpaceMark = "\u2581";

/// The bytes of a spelling of byte-level vocabularies, whose characters stand for bytes: those that
/// are printable in Latin-1 stand for themselves, the others are numbered from U+0100 on.
/// Characters that stand for no byte are kept as they are.
std::string DecodeByteSpelling(std::string_view spelling);

/// The text that a spelling with marks in place of spaces stands for. REQUIRES: a mark.
std::string UnmarkSpaces(std::string_view spelling, std::string_view mark = kSpaceMark);

}  // namespace winnow
