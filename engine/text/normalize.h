#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace winnow {

/// Unicode's normalisation forms.
enum class UnicodeForm { kNfc, kNfd, kNfkc, kNfkd };

/// A text is at most so many times as long as its normalisation of the form. Of C: Hangul
/// syllables, which take 3 bytes, are composed of three letters of 3 bytes each, and the Kelvin
/// sign becomes a K. Compatible characters of 4 bytes become ones of a single byte, too.
constexpr size_t MaxUnicodeShrinkage(UnicodeForm form) {
  return form == UnicodeForm::kNfc || form == UnicodeForm::kNfd ? 3 : 12;
}

/// The text in a normalisation form; text with invalid UTF-8 comes back as it is. Takes linear
/// time, which ICU alone does not for long runs of combining marks.
std::string NormalizeUnicode(UnicodeForm form, std::string_view text);

}  // namespace winnow
