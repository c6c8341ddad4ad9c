#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace winnow {

/// A text is at most so many times as long as its normalisation form C: Hangul syllables, which
/// take 3 bytes, are composed of three letters of 3 bytes each, and the Kelvin sign becomes a K.
inline constexpr size_t kMaxNfcShrinkage = 3;

/// Unicode normalisation form C; text with invalid UTF-8 comes back as it is. Takes linear time,
/// which ICU alone does not for long runs of combining marks.
std::string NormalizeNfc(std::string_view text);

}  // namespace winnow
