#include "engine/text/jinja_outline.h"

#include <cctype>
#include <iterator>
#include <utility>

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
        literal_at_[code_.size()] = literals_.size();
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

const std::string* JinjaOutline::LiteralAt(size_t position) const {
  const auto found = literal_at_.find(position);
  return found == literal_at_.end() ? nullptr : &literals_[found->second];
}

std::string JinjaOutline::LiteralAfter(std::string_view code) const {
  for (size_t begin = code_.find(code); begin != std::string::npos;
       begin = code_.find(code, begin + 1)) {
    if (const std::string* literal = LiteralAt(begin + code.size())) return *literal;
  }
  return "";
}

std::vector<JinjaOutline::ContentFrame> JinjaOutline::ContentFrames(std::string_view eos) const {
  constexpr std::string_view kContent = "['content']";
  constexpr std::string_view kEosToken = "+eos_token";
  const auto is_name = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '[' || c == ']';
  };
  std::vector<ContentFrame> frames;
  for (size_t begin = code_.find(kContent); begin != std::string::npos;
       begin = code_.find(kContent, begin + 1)) {
    ContentFrame frame;
    size_t name = begin;
    while (name > 0 && is_name(code_[name - 1])) --name;
    // The literal before is the last one that starts ahead, if it reaches up to the plus.
    const auto next = literal_at_.lower_bound(name);
    if (next != literal_at_.begin() && name > 0 && code_[name - 1] == '+') {
      const auto& [offset, index] = *std::prev(next);
      if (offset + literals_[index].size() + 3 == name) frame.open = literals_[index];
    }
    size_t end = begin + kContent.size();
    const auto skip = [&](std::string_view code) {
      if (code_.compare(end, code.size(), code) != 0) return false;
      end += code.size();
      return true;
    };
    frame.trims = skip("|trim") || skip(".strip()");
    while (true) {
      const std::string* literal = code_.compare(end, 1, "+") == 0 ? LiteralAt(end + 1) : nullptr;
      if (literal != nullptr) {
        frame.close.append(*literal);
        end += literal->size() + 3;
      } else if (skip(kEosToken)) {
        frame.close.append(eos);
      } else {
        break;
      }
    }
    frames.push_back(std::move(frame));
  }
  return frames;
}

}  // namespace winnow
