#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace winnow {

/// The wording of a Jinja template without its layout, to recognise templates by: what its string
/// literals and the text outside of tags say, and its expressions with one spelling of each.
class JinjaOutline {
 public:
  explicit JinjaOutline(std::string_view jinja);

  /// Whether a literal or the text outside of tags contains `text`.
  bool Spells(std::string_view text) const { return !LiteralWith(text).empty(); }
  /// The first literal that contains `text`; empty if there is none.
  std::string LiteralWith(std::string_view text) const;
  /// Whether the expressions contain `code`, written without spaces outside of literals and with
  /// literals in single quotes, such as "' '+eos_token".
  bool Uses(std::string_view code) const { return code_.find(code) != std::string::npos; }

  /// The first literal that stands directly behind `code`, written as for Uses(); empty if there is
  /// none.
  std::string LiteralAfter(std::string_view code) const;

  /// What an expression joins directly to a message's content.
  struct ContentFrame {
    std::string open;   ///< the literal before it, or empty
    std::string close;  ///< literals and `eos_token` behind it
    bool trims;         ///< whether whitespace around the content is dropped
  };
  /// The frame of each place in the expressions that names a message's content, with `eos` for
  /// `eos_token`.
  std::vector<ContentFrame> ContentFrames(std::string_view eos) const;

  /// In the order of the template, with escapes such as \n resolved.
  const std::vector<std::string>& literals() const { return literals_; }

 private:
  /// The literal whose opening quote is at `position` of the code, or null.
  const std::string* LiteralAt(size_t position) const;

  std::string code_;
  std::vector<std::string> literals_;
  std::map<size_t, size_t> literal_at_;  ///< index of the literal whose quote is at the offset
};

}  // namespace winnow
