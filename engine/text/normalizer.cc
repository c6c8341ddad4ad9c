#include "engine/text/normalizer.h"

#include <unicode/uchar.h>
#include <unicode/utf8.h>

#include <algorithm>
#include <utility>

#include "absl/functional/function_ref.h"
#include "engine/text/characters.h"
#include "engine/text/spelling.h"

namespace winnow {
namespace {

/// The text with each character replaced by what `map` returns of it: nothing if that is below 0.
std::string MapCodePoints(std::string_view text, absl::FunctionRef<UChar32(UChar32)> map) {
  std::string mapped;
  mapped.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const size_t begin = i;
    UChar32 c;
    U8_NEXT(text.data(), i, text.size(), c);
    if (c < 0) {
      mapped.append(text.substr(begin, i - begin));
    } else if (c = map(c); c >= 0) {
      char bytes[U8_MAX_LENGTH];
      size_t length = 0;
      U8_APPEND_UNSAFE(bytes, length, c);
      mapped.append(bytes, length);
    }
  }
  return mapped;
}

std::string ReplaceAll(std::string_view text, const Normalizer::Replace& step) {
  std::string replaced;
  replaced.reserve(text.size() + text.size() / 2);
  for (size_t begin = 0;;) {
    const size_t found = text.find(step.pattern, begin);
    replaced.append(text.substr(begin, found - begin));
    if (found == std::string_view::npos) return replaced;
    replaced.append(step.content);
    begin = found + step.pattern.size();
  }
}

std::string ReplaceAll(std::string_view text, const Normalizer::ReplaceMatches& step) {
  std::string replaced;
  size_t done = 0;
  step.pattern->ForEachMatch(text, [&](size_t begin, size_t end) {
    replaced.append(text.substr(done, begin - done)).append(step.content);
    done = end;
    return true;
  });
  return replaced.append(text.substr(done));
}

std::string Collapse(std::string_view text) {
  std::string collapsed;
  for (const char c : text) {
    if (c != ' ' || (!collapsed.empty() && collapsed.back() != ' ')) collapsed.push_back(c);
  }
  std::string_view kept = collapsed;
  while (kept.ends_with(' ') || kept.ends_with(kSpaceMark)) {
    kept.remove_suffix(kept.ends_with(' ') ? 1 : kSpaceMark.size());
  }
  return std::string(kept);
}

struct Rewriter {
  std::string_view text;

  std::string operator()(UnicodeForm form) const { return NormalizeUnicode(form, text); }
  std::string operator()(Normalizer::Lowercase) const {
    // Of a dotted capital I, the one letter that becomes two characters, the dot stays.
    const std::string dotted = ReplaceAll(text, Normalizer::Replace{"\u0130", "i\u0307"});
    return MapCodePoints(dotted, [](UChar32 c) { return u_tolower(c); });
  }
  std::string operator()(const Normalizer::Replace& step) const { return ReplaceAll(text, step); }
  std::string operator()(const Normalizer::ReplaceMatches& step) const {
    return ReplaceAll(text, step);
  }
  std::string operator()(const Normalizer::Prepend& step) const {
    return text.empty() ? std::string() : step.content + std::string(text);
  }
  std::string operator()(Normalizer::Strip step) const {
    std::string_view left = text;
    if (step.left) left.remove_prefix(LeadingWhitespace(left));
    if (step.right) left.remove_suffix(TrailingWhitespace(left));
    return std::string(left);
  }
  std::string operator()(Normalizer::StripAccents) const {
    return MapCodePoints(text,
                         [](UChar32 c) { return U_MASK(u_charType(c)) & U_GC_M_MASK ? -1 : c; });
  }
  std::string operator()(Normalizer::CollapseSpaces) const { return Collapse(text); }
  std::string operator()(const Normalizer::MapCharacters& step) const {
    return step.graphemes ? step.map->ApplyToGraphemes(text) : step.map->Apply(text);
  }
};

struct Shrinkage {
  size_t operator()(UnicodeForm form) const { return MaxUnicodeShrinkage(form); }
  // The Kelvin sign becomes a k.
  size_t operator()(Normalizer::Lowercase) const { return 3; }
  size_t operator()(const Normalizer::Replace& step) const {
    if (step.content.empty()) return 0;
    return std::max<size_t>(1,
                            (step.pattern.size() + step.content.size() - 1) / step.content.size());
  }
  size_t operator()(const Normalizer::Prepend&) const { return 1; }
  size_t operator()(const Normalizer::ReplaceMatches&) const { return 0; }
  size_t operator()(Normalizer::Strip) const { return 0; }
  size_t operator()(Normalizer::StripAccents) const { return 0; }
  size_t operator()(Normalizer::CollapseSpaces) const { return 0; }
  size_t operator()(const Normalizer::MapCharacters&) const { return 0; }
};

}  // namespace

void Normalizer::Add(Step step) { steps_.push_back(std::move(step)); }

std::string Normalizer::Apply(std::string_view text) const {
  std::string normalized(text);
  for (const Step& step : steps_) {
    normalized = std::visit(Rewriter{normalized}, step);
  }
  return normalized;
}

size_t Normalizer::MaxShrinkage() const {
  size_t shrinkage = 1;
  for (const Step& step : steps_) shrinkage *= std::visit(Shrinkage{}, step);
  return shrinkage;
}

}  // namespace winnow
