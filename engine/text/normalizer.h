#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "engine/text/character_map.h"
#include "engine/text/normalize.h"
#include "engine/text/regex.h"

namespace winnow {

/// What is done to a text before it is split into words: steps, each of which rewrites the whole
/// text, as Hugging Face's library defines them. Bytes that are not UTF-8 are left as they are, but
/// by SentencePiece's maps.
class Normalizer {
 public:
  /// Each character becomes small letters.
  struct Lowercase {};
  /// Every occurrence of a text, from left to right.
  struct Replace {
    std::string pattern;  ///< not empty
    std::string content;
  };
  /// Every match of an expression.
  struct ReplaceMatches {
    std::shared_ptr<const Regex> pattern;
    std::string content;
  };
  /// In front of a text that is not empty.
  struct Prepend {
    std::string content;
  };
  /// Whitespace at the ends.
  struct Strip {
    bool left = true, right = true;
  };
  /// Combining marks.
  struct StripAccents {};
  /// As SentencePiece removes extra whitespace: spaces at the ends, marks in place of spaces at the
  /// end, and all but one of the spaces in a row.
  struct CollapseSpaces {};
  /// As a map says, in SentencePiece's way or in Hugging Face's.
  struct MapCharacters {
    std::shared_ptr<const CharacterMap> map;
    bool graphemes = false;
  };
  using Step = std::variant<UnicodeForm, Lowercase, Replace, ReplaceMatches, Prepend, Strip,
                            StripAccents, CollapseSpaces, MapCharacters>;

  void Add(Step step);
  bool empty() const { return steps_.empty(); }

  /// The text with all steps done, in linear time but for expressions (engine/text/regex.h).
  std::string Apply(std::string_view text) const;

  /// A text is at most so many times as long as what Apply makes of it; 0: nothing is known.
  size_t MaxShrinkage() const;

 private:
  std::vector<Step> steps_;
};

}  // namespace winnow
