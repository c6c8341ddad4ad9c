#include "engine/text/pretokenizer.h"

#include <unicode/uchar.h>
#include <unicode/utf8.h>

#include <array>
#include <cstddef>
#include <cstdint>

namespace winnow {
namespace {

// The patterns as the models' tokenizer.json files publish them. They are scanned by hand below,
// since a regular expression engine would take most of the time of tokenization.
//
//   GPT-2    's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
//   SmolLM   every \p{N} by itself, GPT-2's pattern on what lies between
//   Llama 3  (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}
//            | ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
//   Qwen 2   Llama 3's with \p{N} in place of \p{N}{1,3}

struct NamedPretokenizer {
  std::string_view name;
  Pretokenizer pretokenizer;
};

constexpr Pretokenizer kGpt2 = {.pattern = WordPattern::kGpt2};
constexpr Pretokenizer kSmolLm = {.pattern = WordPattern::kSmolLm};
constexpr Pretokenizer kLlama3 = {
    .pattern = WordPattern::kLlama3, .ignores_merges = true, .adds_bos = true};
constexpr Pretokenizer kQwen2 = {.pattern = WordPattern::kQwen2, .normalizes_nfc = true};

// "default" is what files from before the key existed amount to: GPT-2 and its descendants.
constexpr NamedPretokenizer kPretokenizers[] = {
    {"default", kGpt2},
    {"gpt-2", kGpt2},
    {"phi-2", kGpt2},
    {"smollm", kSmolLm},
    {"starcoder", kSmolLm},
    {"refact", kSmolLm},
    {"llama-bpe", kLlama3},
    {"llama3", kLlama3},
    {"llama-v3", kLlama3},
    {"qwen2", kQwen2},
    {"deepseek-r1-qwen", kQwen2},
};

enum class CharClass : uint8_t { kEnd, kLetter, kNumber, kNewline, kSpace, kOther };

CharClass Classify(UChar32 c) {
  const uint32_t mask = U_MASK(u_charType(c));
  if (mask & U_GC_L_MASK) return CharClass::kLetter;
  if (mask & U_GC_N_MASK) return CharClass::kNumber;
  if (c == '\r' || c == '\n') return CharClass::kNewline;
  return u_isUWhiteSpace(c) ? CharClass::kSpace : CharClass::kOther;
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
    if (first.IsNumber()) {
      size_t end = begin;
      for (int digits = 0; digits < max_digits && At(end).IsNumber(); ++digits) {
        end += At(end).length;
      }
      return end;
    }
    if (!first.IsNewline() && At(begin + first.length).IsLetter()) {
      return RunEnd(begin + first.length, CharClass::kLetter);
    }
    if (const size_t core = AfterOptionalSpace(begin); At(core).IsOther()) {
      return RunEnd(RunEnd(core, CharClass::kOther), CharClass::kNewline);
    }
    if (const size_t end = LastNewlineEnd(begin); end > begin) return end;
    return WhitespaceWordEnd(begin);
  }

  Char At(size_t position) const {
    if (position >= text_.size()) return {CharClass::kEnd, 0};
    static const std::array<CharClass, 128> kAscii = [] {
      std::array<CharClass, 128> classes;
      for (UChar32 c = 0; c < 128; ++c) classes[c] = Classify(c);
      return classes;
    }();
    const auto byte = static_cast<unsigned char>(text_[position]);
    if (byte < 128) return {kAscii[byte], 1};
    size_t next = position;
    UChar32 c;
    U8_NEXT(text_.data(), next, text_.size(), c);
    return {c < 0 ? CharClass::kOther : Classify(c), next - position};
  }

 private:
  size_t RunEnd(size_t position, CharClass type) const {
    for (Char c = At(position); c.type == type; c = At(position)) position += c.length;
    return position;
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

using Visit = absl::FunctionRef<bool(std::string_view word)>;

/// False when `visit` has ended it.
template <typename WordEnd>
bool ForEach(std::string_view text, WordEnd word_end, Visit visit) {
  const WordScanner scanner(text);
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = word_end(scanner, begin);
    if (!visit(text.substr(begin, end - begin))) return false;
    begin = end;
  }
  return true;
}

bool ForEachGpt2Word(std::string_view text, Visit visit) {
  return ForEach(
      text, [](const WordScanner& scanner, size_t begin) { return scanner.Gpt2WordEnd(begin); },
      visit);
}

bool ForEachSmolLmWord(std::string_view text, Visit visit) {
  const WordScanner scanner(text);
  size_t begin = 0;
  for (size_t i = 0; i < text.size();) {
    const Char c = scanner.At(i);
    if (c.IsNumber()) {
      if (!ForEachGpt2Word(text.substr(begin, i - begin), visit)) return false;
      if (!visit(text.substr(i, c.length))) return false;
      begin = i + c.length;
    }
    i += c.length;
  }
  return ForEachGpt2Word(text.substr(begin), visit);
}

bool ForEachLlama3Word(std::string_view text, int max_digits, Visit visit) {
  return ForEach(
      text,
      [max_digits](const WordScanner& scanner, size_t begin) {
        return scanner.Llama3WordEnd(begin, max_digits);
      },
      visit);
}

}  // namespace

std::optional<Pretokenizer> FindPretokenizer(std::string_view name) {
  for (const NamedPretokenizer& entry : kPretokenizers) {
    if (entry.name == name) return entry.pretokenizer;
  }
  return std::nullopt;
}

void ForEachWord(WordPattern pattern, std::string_view text, Visit visit) {
  switch (pattern) {
    case WordPattern::kGpt2:
      ForEachGpt2Word(text, visit);
      break;
    case WordPattern::kSmolLm:
      ForEachSmolLmWord(text, visit);
      break;
    case WordPattern::kLlama3:
      ForEachLlama3Word(text, 3, visit);
      break;
    case WordPattern::kQwen2:
      ForEachLlama3Word(text, 1, visit);
      break;
  }
}

}  // namespace winnow
