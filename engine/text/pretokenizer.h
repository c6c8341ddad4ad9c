#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "absl/functional/function_ref.h"
#include "engine/text/regex.h"
#include "engine/text/word_pattern.h"

namespace winnow {

/// What becomes of the stretches of a text that match where it is split.
enum class SplitBehavior {
  kRemoved,
  kIsolated,            ///< a word each
  kMergedWithPrevious,  ///< the first of several in a row: the others are words of their own
  kMergedWithNext,      ///< the last of several in a row
  kContiguous,          ///< all in a row are one word
};

/// How a text is split into words before a model makes tokens of each: steps, each of which splits
/// what the one before has made, as Hugging Face's library defines them.
class Pretokenizer {
 public:
  /// Characters of a kind, each a match.
  enum class CharacterKind { kNumber, kPunctuation, kWhitespace };
  /// Runs of characters of words, and runs of others that are no whitespace.
  struct WordsAndSymbols {};
  /// Words of a known pattern, which together are the text.
  struct Words {
    WordPattern pattern;
  };
  struct Split {
    /// A literal text (not empty), an expression, a kind of characters, words and symbols.
    std::variant<std::string, std::shared_ptr<const Regex>, CharacterKind, WordsAndSymbols> pattern;
    SplitBehavior behavior = SplitBehavior::kIsolated;
    bool invert = false;  ///< what does not match does
  };
  /// Spaces become a mark, which words begin with.
  struct MarkSpaces {
    enum class Prepend { kNever, kFirst, kAlways };
    std::string mark;  ///< not empty
    Prepend prepend;   ///< where a mark is put in front: of the text's first word, or of all
    bool splits = true;
  };
  /// A space is put in front of words without one.
  struct PrefixSpace {};
  using Step = std::variant<Words, Split, MarkSpaces, PrefixSpace>;
  using Visit = absl::FunctionRef<bool(std::string_view word)>;

  void Add(Step step);
  bool empty() const { return steps_.empty(); }

  /// Calls `visit` with the words of a text, from left to right and none of them empty, until that
  /// returns false. `at_start` tells whether the text is the first of what is tokenized. Takes
  /// linear time but for expressions.
  void ForEachWord(std::string_view text, bool at_start, Visit visit) const;

  /// Whether all of a text is in its words.
  bool KeepsText() const;

 private:
  /// Does the steps from `step` on. False when `visit` has ended it.
  bool Walk(size_t step, std::string_view text, bool at_start, Visit visit) const;

  std::vector<Step> steps_;
};

}  // namespace winnow
