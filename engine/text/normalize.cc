#include "engine/text/normalize.h"

#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>
#include <unicode/uchar.h>
#include <unicode/unistr.h>
#include <unicode/utf8.h>

#include <array>
#include <cstdint>

namespace winnow {
namespace {

/// Marks in a row that are left to ICU, which walks back over those that come later in the
/// canonical order for each that comes earlier. No language has as many.
constexpr size_t kFewMarks = 64;

bool IsValidUtf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    UChar32 c;
    U8_NEXT(text.data(), i, text.size(), c);
    if (c < 0) return false;
  }
  return true;
}

/// Whether the character is a combining mark, or is decomposed into nothing else.
bool IsMark(UChar32 c) {
  return c >= 0x300 && u_getIntPropertyValue(c, UCHAR_LEAD_CANONICAL_COMBINING_CLASS) != 0;
}

/// Appends a run of marks, decomposed and in canonical order, to `out`.
void AppendOrdered(const icu::Normalizer2& nfd, std::string_view marks, std::string& out) {
  std::array<icu::UnicodeString, 256> classes;
  for (size_t i = 0; i < marks.size();) {
    UChar32 c;
    U8_NEXT(marks.data(), i, marks.size(), c);
    icu::UnicodeString decomposed;
    if (!nfd.getDecomposition(c, decomposed)) decomposed = c;
    for (int32_t j = 0; j < decomposed.length(); j = decomposed.moveIndex32(j, 1)) {
      const UChar32 mark = decomposed.char32At(j);
      classes[u_getCombiningClass(mark)].append(mark);
    }
  }
  for (const icu::UnicodeString& ordered : classes) ordered.toUTF8String(out);
}

/// The text with long runs of marks in canonical order; an equivalent text.
/// REQUIRES: valid UTF-8.
std::string OrderLongRuns(const icu::Normalizer2& nfd, std::string_view text) {
  std::string ordered;
  size_t done = 0;   // what `ordered` holds of the text
  size_t run = 0;    // where the marks before `i` begin
  size_t marks = 0;  // how many these are
  const auto end_run = [&](size_t end) {
    if (marks <= kFewMarks) return;
    ordered.append(text, done, run - done);
    AppendOrdered(nfd, text.substr(run, end - run), ordered);
    done = end;
  };
  for (size_t i = 0; i < text.size();) {
    const size_t begin = i;
    UChar32 c;
    U8_NEXT(text.data(), i, text.size(), c);
    if (IsMark(c)) {
      if (marks++ == 0) run = begin;
    } else {
      end_run(begin);
      marks = 0;
    }
  }
  end_run(text.size());
  return ordered.append(text, done);
}

const icu::Normalizer2* Find(UnicodeForm form, UErrorCode& error) {
  switch (form) {
    case UnicodeForm::kNfc:
      return icu::Normalizer2::getNFCInstance(error);
    case UnicodeForm::kNfd:
      return icu::Normalizer2::getNFDInstance(error);
    case UnicodeForm::kNfkc:
      return icu::Normalizer2::getNFKCInstance(error);
    case UnicodeForm::kNfkd:
      return icu::Normalizer2::getNFKDInstance(error);
  }
  return nullptr;
}

}  // namespace

std::string NormalizeUnicode(UnicodeForm form, std::string_view text) {
  UErrorCode error = U_ZERO_ERROR;
  const icu::Normalizer2* normalizer = Find(form, error);
  const icu::Normalizer2* nfd = icu::Normalizer2::getNFDInstance(error);
  if (U_SUCCESS(error) && IsValidUtf8(text)) {
    const std::string ordered = OrderLongRuns(*nfd, text);
    std::string normalized;
    icu::StringByteSink<std::string> sink(&normalized, static_cast<int32_t>(ordered.size()));
    normalizer->normalizeUTF8(0, ordered, sink, nullptr, error);
    if (U_SUCCESS(error)) return normalized;
  }
  return std::string(text);
}

}  // namespace winnow
