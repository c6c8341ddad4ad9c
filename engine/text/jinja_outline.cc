#include "engine/text/jinja_outline.h"

#include <cctype>
#include <cstddef>

namespace winnow {
namespace {

/// Reads the literal whose opening quote is at `position`, and moves behind its closing quote.
std::string ReadLiteral(std::string_view jinja, size_t& position) {
  std::string literal;
  const char quote = jinja[position++];
  while (position < jinja.size() && jinja[position] != quote) {
    char c = jinja[position++];
    if (c == '\\' && position < jinja.size()) {
      c = jinja[position++];
      if (c == 'n') c = '\n';
      if (c == 't') c = '\t';
    }
    literal.push_back(c);
  }
  ++position;
  return literal;
}

}  // namespace

JinjaOutline::JinjaOutline(std::string_view jinja) {
  size_t position = 0;
  while (position < jinja.size()) {
    // Text up to the next tag counts as a literal.
    size_t tag = jinja.find('{', position);
    while (tag != std::string_view::npos && tag + 1 < jinja.size() && jinja[tag + 1] != '{' &&
           jinja[tag + 1] != '%' && jinja[tag + 1] != '#') {
      tag = jinja.find('{', tag + 1);
    }
    if (tag == std::string_view::npos || tag + 1 == jinja.size()) tag = jinja.size();
    if (tag > position) literals_.emplace_back(jinja.substr(position, tag - position));
    if (tag == jinja.size()) return;

    const char kind = jinja[tag + 1];
    const std::string_view close = kind == '{' ? "}}" : kind == '%' ? "%}" : "#}";
    position = tag + 2;
    if (kind == '#') {
      const size_t end = jinja.find(close, position);
      position = end == std::string_view::npos ? jinja.size() : end + 2;
      continue;
    }
    while (position < jinja.size() && jinja.substr(position, 2) != close) {
      const char c = jinja[position];
      if (c == '\'' || c == '"') {
        literals_.push_back(ReadLiteral(jinja, position));
        code_.append("'").append(literals_.back()).append("'");
      } else {
        if (!std::isspace(static_cast<unsigned char>(c))) code_.push_back(c);
        ++position;
      }
    }
    code_.push_back('\n');
    position += 2;
  }
}

std::string JinjaOutline::LiteralWith(std::string_view text) const {
  for (const std::string& literal : literals_) {
    if (literal.find(text) != std::string::npos) return literal;
  }
  return "";
}

}  // namespace winnow
