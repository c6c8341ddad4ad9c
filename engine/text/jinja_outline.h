#pragma once

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

  /// In the order of the template, with escapes such as \n resolved.
  const std::vector<std::string>& literals() const { return literals_; }

 private:
  std::string code_;
  std::vector<std::string> literals_;
};

}  // namespace winnow
