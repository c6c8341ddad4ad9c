#include "engine/text/pretokenizer.h"

#include <unicode/uchar.h>
#include <unicode/utf8.h>

#include <algorithm>
#include <array>

#include "engine/text/characters.h"

namespace winnow {
namespace {

using CharacterKind = Pretokenizer::CharacterKind;

/// A stretch of a text between the places where it is split.
struct Stretch {
  size_t begin;
  size_t end;
  bool matches;
};

bool IsOf(CharacterKind kind, UChar32 c) {
  switch (kind) {
    case CharacterKind::kNumber:
      return (U_MASK(u_charType(c)) & U_GC_N_MASK) != 0;
    case CharacterKind::kPunctuation:
      // ASCII's symbols are punctuation, too.
      return (U_MASK(u_charType(c)) & U_GC_P_MASK) != 0 ||
             (c < 128 && u_isgraph(c) && !u_isalnum(c));
    case CharacterKind::kWhitespace:
      return u_isUWhiteSpace(c);
  }
  return false;
}

/// The same of ASCII, which most characters are.
std::array<bool, 128> AsciiOf(CharacterKind kind) {
  std::array<bool, 128> is_of;
  for (UChar32 c = 0; c < 128; ++c) is_of[c] = IsOf(kind, c);
  return is_of;
}

/// Calls `visit` with the matches of a split's pattern, until that returns false. False when there
/// may be more of them, which it would take too long to find.
struct Matches {
  std::string_view text;
  absl::FunctionRef<bool(size_t begin, size_t end)> visit;

  bool operator()(const std::string& literal) const {
    for (size_t at = 0; (at = text.find(literal, at)) != std::string_view::npos;) {
      if (!visit(at, at + literal.size())) break;
      at += literal.size();
    }
    return true;
  }
  bool operator()(const std::shared_ptr<const Regex>& expression) const {
    return expression->ForEachMatch(text, visit);
  }
  bool operator()(CharacterKind kind) const {
    static const std::array<std::array<bool, 128>, 3> kAscii = {
        AsciiOf(CharacterKind::kNumber), AsciiOf(CharacterKind::kPunctuation),
        AsciiOf(CharacterKind::kWhitespace)};
    const std::array<bool, 128>& ascii = kAscii[static_cast<size_t>(kind)];
    for (size_t i = 0; i < text.size();) {
      const size_t begin = i;
      UChar32 c = static_cast<unsigned char>(text[i]);
      if (c < 128) {
        ++i;
        if (ascii[c] && !visit(begin, i)) break;
        continue;
      }
      U8_NEXT(text.data(), i, text.size(), c);
      if (c >= 0 && IsOf(kind, c) && !visit(begin, i)) break;
    }
    return true;
  }
  bool operator()(Pretokenizer::WordsAndSymbols) const {
    enum Kind { kSpace, kWord, kSymbol } run = kSpace;
    size_t begin = 0;
    for (size_t i = 0; i < text.size();) {
      const size_t at = i;
      UChar32 c;
      U8_NEXT(text.data(), i, text.size(), c);
      const Kind kind = c < 0                ? kSymbol
                        : IsWordCharacter(c) ? kWord
                        : u_isUWhiteSpace(c) ? kSpace
                                             : kSymbol;
      if (kind == run) continue;
      if (run != kSpace && !visit(begin, at)) return true;
      run = kind;
      begin = at;
    }
    if (run != kSpace) visit(begin, text.size());
    return true;
  }
};

/// Whether a stretch and the one behind it are one word.
bool Joins(SplitBehavior behavior, const Stretch& left, const Stretch& right) {
  switch (behavior) {
    case SplitBehavior::kRemoved:
    case SplitBehavior::kIsolated:
      return false;
    case SplitBehavior::kMergedWithPrevious:
      return right.matches && !left.matches;
    case SplitBehavior::kMergedWithNext:
      return left.matches && !right.matches;
    case SplitBehavior::kContiguous:
      return left.matches == right.matches;
  }
  return false;
}

/// Gathers stretches into words, and hands them on.
class WordJoiner {
 public:
  WordJoiner(SplitBehavior behavior, absl::FunctionRef<bool(size_t begin, size_t end)> visit)
      : behavior_(behavior), visit_(visit) {}

  bool Add(const Stretch& stretch) {
    if (behavior_ == SplitBehavior::kRemoved) {
      return stretch.matches || Visit(stretch.begin, stretch.end);
    }
    if (any_ && Joins(behavior_, last_, stretch)) {
      last_ = stretch;
      return true;
    }
    if (!Finish()) return false;
    begin_ = stretch.begin;
    last_ = stretch;
    any_ = true;
    return true;
  }
  bool Finish() { return !any_ || Visit(begin_, last_.end); }

 private:
  bool Visit(size_t begin, size_t end) { return begin == end || visit_(begin, end); }

  const SplitBehavior behavior_;
  const absl::FunctionRef<bool(size_t, size_t)> visit_;
  bool any_ = false;
  size_t begin_ = 0;  ///< of the word that `last_` ends
  Stretch last_{};
};

bool ForEachPart(const Pretokenizer::Split& split, std::string_view text,
                 absl::FunctionRef<bool(size_t begin, size_t end)> visit) {
  WordJoiner words(split.behavior, visit);
  size_t done = 0;
  bool goes_on = true;
  const auto add_match = [&](size_t begin, size_t end) {
    if (done < begin) goes_on = words.Add({done, begin, split.invert});
    if (goes_on) goes_on = words.Add({begin, end, !split.invert});
    done = end;
    return goes_on;
  };
  const bool found_all = std::visit(Matches{text, add_match}, split.pattern);
  if (goes_on && done < text.size()) {
    // Where matching was given up, nothing is removed.
    goes_on = words.Add({done, text.size(), found_all && split.invert});
  }
  return goes_on && words.Finish();
}

/// The text with a mark for each space.
std::string WithMarks(std::string_view text, const Pretokenizer::MarkSpaces& step, bool at_start) {
  using Prepend = Pretokenizer::MarkSpaces::Prepend;
  std::string marked;
  marked.reserve(text.size() + text.size() / 2);
  const bool prepends =
      step.prepend == Prepend::kAlways || (step.prepend == Prepend::kFirst && at_start);
  if (prepends && !text.starts_with(' ') && !text.starts_with(step.mark)) marked = step.mark;
  for (const char c : text) {
    if (c == ' ') {
      marked.append(step.mark);
    } else {
      marked.push_back(c);
    }
  }
  return marked;
}

}  // namespace

void Pretokenizer::Add(Step step) { steps_.push_back(std::move(step)); }

void Pretokenizer::ForEachWord(std::string_view text, bool at_start, Visit visit) const {
  if (!text.empty()) Walk(0, text, at_start, visit);
}

bool Pretokenizer::KeepsText() const {
  return std::ranges::none_of(steps_, [](const Step& step) {
    const Split* split = std::get_if<Split>(&step);
    return split != nullptr && split->behavior == SplitBehavior::kRemoved;
  });
}

bool Pretokenizer::Walk(size_t step, std::string_view text, bool at_start, Visit visit) const {
  if (step == steps_.size()) return visit(text);
  const auto walk_on = [&](std::string_view whole, std::string_view word) {
    return Walk(step + 1, word, at_start && word.data() == whole.data(), visit);
  };
  const auto split_by = [&](const Split& split, std::string_view whole) {
    return ForEachPart(split, whole, [&](size_t begin, size_t end) {
      return walk_on(whole, whole.substr(begin, end - begin));
    });
  };
  if (const Words* words = std::get_if<Words>(&steps_[step])) {
    // Mostly the last step, where each word is a visit and no more.
    if (step + 1 == steps_.size()) return winnow::ForEachWord(words->pattern, text, visit);
    return winnow::ForEachWord(words->pattern, text,
                               [&](std::string_view word) { return walk_on(text, word); });
  }
  if (const Split* split = std::get_if<Split>(&steps_[step])) return split_by(*split, text);
  if (const MarkSpaces* marks = std::get_if<MarkSpaces>(&steps_[step])) {
    const std::string marked = WithMarks(text, *marks, at_start);
    if (!marks->splits) return walk_on(marked, marked);
    return split_by({marks->mark, SplitBehavior::kMergedWithNext}, marked);
  }
  if (text.starts_with(' ')) return walk_on(text, text);
  const std::string spaced = " " + std::string(text);
  return walk_on(spaced, spaced);
}

}  // namespace winnow
