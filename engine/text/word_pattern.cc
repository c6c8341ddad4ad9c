#include "engine/text/word_pattern.h"

#include <unicode/uchar.h>
#include <unicode/utf8.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

namespace winnow {
namespace {

// The patterns as the models' tokenizer.json files publish them. They are scanned by hand below,
// since a regular expression engine would take most of the time of tokenization.

constexpr std::string_view kGpt2 =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr std::string_view kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3})"
    R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen2 = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N})"
                                    R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kTekken =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+)"
    R"(|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*)"
    R"(|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kGpt4o =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+)"
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
    R"(|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*)"
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
    R"(|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

struct NamedPattern {
  std::string_view expression;
  WordPattern pattern;
};
constexpr NamedPattern kPatterns[] = {{kGpt2, WordPattern::kGpt2},
                                      {kLlama3, WordPattern::kLlama3},
                                      {kQwen2, WordPattern::kQwen2},
                                      {kTekken, WordPattern::kTekken},
                                      {kGpt4o, WordPattern::kGpt4o}};

enum class CharClass : uint8_t { kEnd, kLetter, kNumber, kNewline, kSpace, kOther };

CharClass Classify(UChar32 c) {
  const uint32_t mask = U_MASK(u_charType(c));
  if (mask & U_GC_L_MASK) return CharClass::kLetter;
  if (mask & U_GC_N_MASK) return CharClass::kNumber;
  if (c == '\r' || c == '\n') return CharClass::kNewline;
  return u_isUWhiteSpace(c) ? CharClass::kSpace : CharClass::kOther;
}

/// Classify of ASCII, as a constant: a table that is filled at run time is asked for at each
/// character whether it has been.
constexpr std::array<CharClass, 128> kAsciiClasses = [] {
  std::array<CharClass, 128> classes = {};
  for (int c = 0; c < 128; ++c) {
    const bool letter = (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
    classes[c] = letter                                            ? CharClass::kLetter
                 : c >= '0' && c <= '9'                            ? CharClass::kNumber
                 : c == '\r' || c == '\n'                          ? CharClass::kNewline
                 : c == ' ' || c == '\t' || c == '\v' || c == '\f' ? CharClass::kSpace
                                                                   : CharClass::kOther;
  }
  return classes;
}();

/// The two classes of characters that words of kTekken and kGpt4o are made of: capitals and small
/// letters. Letters without case and marks are of both.
enum class Case : uint8_t { kNone, kCapital, kSmall, kBoth };

Case CaseOf(UChar32 c) {
  const uint32_t mask = U_MASK(u_charType(c));
  if (mask & (U_GC_LM_MASK | U_GC_LO_MASK | U_GC_M_MASK)) return Case::kBoth;
  if (mask & U_GC_LL_MASK) return Case::kSmall;
  return mask & (U_GC_LU_MASK | U_GC_LT_MASK) ? Case::kCapital : Case::kNone;
}

struct Char {
  CharClass type;
  size_t length;  ///< in bytes

  bool IsLetter() const { return type == CharClass::kLetter; }
  bool IsNumber() const { return type == CharClass::kNumber; }
  bool IsNewline() const { return type == CharClass::kNewline; }
  bool IsOther() const { return type == CharClass::kOther; }
  bool IsWhitespace() const { return type == CharClass::kSpace || IsNewline(); }
};

/// Finds where words end in a text. Positions and lengths are in bytes.
class WordScanner {
 public:
  explicit WordScanner(std::string_view text) : text_(text) {}

  size_t Gpt2WordEnd(size_t begin) const {
    if (size_t length = ContractionLength(begin, /*any_case=*/false)) return begin + length;
    const size_t core = AfterOptionalSpace(begin);
    const Char first = At(core);
    if (first.type == CharClass::kEnd || first.IsWhitespace()) return WhitespaceWordEnd(begin);
    return RunEnd(core, first.type);
  }

  size_t Llama3WordEnd(size_t begin, int max_digits) const {
    if (size_t length = ContractionLength(begin, /*any_case=*/true)) return begin + length;
    const Char first = At(begin);
    if (first.IsLetter()) return RunEnd(begin, CharClass::kLetter);
    if (first.IsNumber()) return NumberEnd(begin, max_digits);
    if (!first.IsNewline() && At(begin + first.length).IsLetter()) {
      return RunEnd(begin + first.length, CharClass::kLetter);
    }
    if (const size_t core = AfterOptionalSpace(begin); At(core).IsOther()) {
      return RunEnd(RunEnd(core, CharClass::kOther), CharClass::kNewline);
    }
    if (const size_t end = LastNewlineEnd(begin); end > begin) return end;
    return WhitespaceWordEnd(begin);
  }

  size_t CasedWordEnd(size_t begin, int max_digits, bool contractions) const {
    if (const size_t end = CasedLettersEnd(begin); end > begin) {
      return contractions ? end + ContractionLength(end, /*any_case=*/true) : end;
    }
    if (At(begin).IsNumber()) return NumberEnd(begin, max_digits);
    if (const size_t core = AfterOptionalSpace(begin); At(core).IsOther()) {
      size_t end = RunEnd(core, CharClass::kOther);
      while (At(end).IsNewline() || text_.substr(end, 1) == "/") ++end;
      return end;
    }
    if (const size_t end = LastNewlineEnd(begin); end > begin) return end;
    return WhitespaceWordEnd(begin);
  }

  Char At(size_t position) const {
    if (position >= text_.size()) return {CharClass::kEnd, 0};
    const auto byte = static_cast<unsigned char>(text_[position]);
    return byte < 128 ? Char{kAsciiClasses[byte], 1} : BeyondAscii(position);
  }

 private:
  Char BeyondAscii(size_t position) const {
    size_t next = position;
    UChar32 c;
    U8_NEXT(text_.data(), next, text_.size(), c);
    return {c < 0 ? CharClass::kOther : Classify(c), next - position};
  }

  size_t RunEnd(size_t position, CharClass type) const {
    for (Char c = At(position); c.type == type; c = At(position)) position += c.length;
    return position;
  }

  size_t NumberEnd(size_t begin, int max_digits) const {
    size_t end = begin;
    for (int digits = 0; digits < max_digits && At(end).IsNumber(); ++digits) {
      end += At(end).length;
    }
    return end;
  }

  /// Where letters and marks end that begin at `begin`, perhaps behind one other character: small
  /// ones behind capitals, if there are small ones, else capitals. `begin` if there are none.
  size_t CasedLettersEnd(size_t begin) const {
    const Char first = At(begin);
    const bool may_lead = first.type != CharClass::kEnd && !first.IsLetter() && !first.IsNumber() &&
                          !first.IsNewline();
    const size_t behind = begin + first.length;
    if (may_lead) {
      if (const size_t end = SmallLettersEnd(behind); end > behind) return end;
    }
    if (const size_t end = SmallLettersEnd(begin); end > begin) return end;
    if (may_lead) {
      if (const size_t end = CaseRunEnd(behind, Case::kCapital); end > behind) return end;
    }
    return CaseRunEnd(begin, Case::kCapital);
  }

  /// Capitals* small+, as an expression that backtracks finds it: where no small letter follows the
  /// capitals, the last of them that may be one is it.
  size_t SmallLettersEnd(size_t begin) const {
    size_t last = begin, end = begin;
    for (;;) {
      const auto [letter_case, length] = CaseAt(end);
      if (letter_case == Case::kSmall) return CaseRunEnd(end, Case::kSmall);
      if (letter_case == Case::kNone) return last;
      end += length;
      if (letter_case == Case::kBoth) last = end;
    }
  }

  /// The end of a run of characters that are of the case.
  size_t CaseRunEnd(size_t begin, Case wanted) const {
    size_t end = begin;
    for (;;) {
      const auto [letter_case, length] = CaseAt(end);
      if (letter_case != wanted && letter_case != Case::kBoth) return end;
      end += length;
    }
  }

  /// The case and the bytes of the character at the position.
  std::pair<Case, size_t> CaseAt(size_t position) const {
    if (position >= text_.size()) return {Case::kNone, 0};
    size_t next = position;
    UChar32 c;
    U8_NEXT(text_.data(), next, text_.size(), c);
    return {c < 0 ? Case::kNone : CaseOf(c), next - position};
  }

  size_t AfterOptionalSpace(size_t position) const {
    return position < text_.size() && text_[position] == ' ' ? position + 1 : position;
  }

  /// \s+(?!\S)|\s+ : a run of whitespace leaves its last character to the word behind it.
  size_t WhitespaceWordEnd(size_t begin) const {
    size_t last = begin, end = begin;
    for (Char c = At(end); c.IsWhitespace(); c = At(end)) {
      last = end;
      end += c.length;
    }
    return end == text_.size() || last == begin ? end : last;
  }

  /// \s*[\r\n]+ : the end of the last newline in a run of whitespace, `begin` if there is none.
  size_t LastNewlineEnd(size_t begin) const {
    size_t last = begin, end = begin;
    for (Char c = At(end); c.IsWhitespace(); c = At(end)) {
      end += c.length;
      if (c.IsNewline()) last = end;
    }
    return last;
  }

  /// Length of 's, 't, 're, 've, 'm, 'll or 'd at the position, 0 if there is none.
  size_t ContractionLength(size_t position, bool any_case) const {
    if (position + 1 >= text_.size() || text_[position] != '\'') return 0;
    const auto letter = [&](size_t i) -> char {
      if (i >= text_.size()) return 0;
      const char c = text_[i];
      return any_case && c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    };
    switch (letter(position + 1)) {
      case 's':
      case 't':
      case 'm':
      case 'd':
        return 2;
      case 'r':
      case 'v':
        return letter(position + 2) == 'e' ? 3 : 0;
      case 'l':
        return letter(position + 2) == 'l' ? 3 : 0;
      default:
        break;
    }
    // The long s, U+017F, is an s to a pattern that ignores case.
    return any_case && text_.substr(position + 1, 2) == "\u017F" ? 3 : 0;
  }

  std::string_view text_;
};

/// False when `visit` has ended it.
template <typename WordEnd>
bool ForEach(std::string_view text, absl::FunctionRef<bool(std::string_view word)> visit,
             WordEnd word_end) {
  const WordScanner scanner(text);
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = word_end(scanner, begin);
    if (!visit(text.substr(begin, end - begin))) return false;
    begin = end;
  }
  return true;
}

}  // namespace

std::optional<WordPattern> FindWordPattern(std::string_view expression) {
  for (const NamedPattern& entry : kPatterns) {
    if (entry.expression == expression) return entry.pattern;
  }
  return std::nullopt;
}

bool ForEachWord(WordPattern pattern, std::string_view text,
                 absl::FunctionRef<bool(std::string_view word)> visit) {
  switch (pattern) {
    case WordPattern::kGpt2:
      return ForEach(text, visit,
                     [](const WordScanner& s, size_t begin) { return s.Gpt2WordEnd(begin); });
    case WordPattern::kLlama3:
      return ForEach(text, visit,
                     [](const WordScanner& s, size_t begin) { return s.Llama3WordEnd(begin, 3); });
    case WordPattern::kQwen2:
      return ForEach(text, visit,
                     [](const WordScanner& s, size_t begin) { return s.Llama3WordEnd(begin, 1); });
    case WordPattern::kTekken:
      return ForEach(text, visit, [](const WordScanner& s, size_t begin) {
        return s.CasedWordEnd(begin, 1, /*contractions=*/false);
      });
    case WordPattern::kGpt4o:
      return ForEach(text, visit, [](const WordScanner& s, size_t begin) {
        return s.CasedWordEnd(begin, 3, /*contractions=*/true);
      });
  }
  return true;
}

}  // namespace winnow
