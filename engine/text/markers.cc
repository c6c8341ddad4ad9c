#include "engine/text/markers.h"

#include <algorithm>
#include <array>
#include <string>

#include "absl/container/flat_hash_set.h"

namespace winnow {
namespace {

constexpr std::array<std::string_view, 10> kTurnEnds = {
    "<|im_end|>",    "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>",
    "<end_of_turn>", "<|end|>",       "</s>",       "<EOT>",      "<eos>"};

constexpr std::string_view kWhitespace = " \t\r\n";
constexpr size_t kMaxBracketedBytes = 128;

/// Whether the text holds `open`, something, and `close`.
bool Encloses(std::string_view text, std::string_view open, std::string_view close) {
  const size_t begin = text.find(open);
  return begin != std::string_view::npos &&
         text.find(close, begin + open.size() + 1) != std::string_view::npos;
}

bool LooksLikeMarker(std::string_view spelling) {
  return Encloses(spelling, "<|", "|>") || Encloses(spelling, "<｜", "｜>") || IsTurnEnd(spelling);
}

/// What a template writes in brackets, brackets included: "<...>" and "[...]" without whitespace.
absl::flat_hash_set<std::string> Bracketed(std::string_view text) {
  absl::flat_hash_set<std::string> found;
  for (size_t begin = 0; begin < text.size(); ++begin) {
    if (text[begin] != '<' && text[begin] != '[') continue;
    const std::string_view rest = text.substr(begin, kMaxBracketedBytes);
    const size_t end = rest.find(text[begin] == '<' ? '>' : ']');
    if (end == std::string_view::npos) continue;
    const std::string_view spelling = rest.substr(0, end + 1);
    if (spelling.find_first_of(kWhitespace) == std::string_view::npos) found.emplace(spelling);
  }
  return found;
}

}  // namespace

bool IsTurnEnd(std::string_view spelling) {
  return std::find(kTurnEnds.begin(), kTurnEnds.end(), spelling) != kTurnEnds.end();
}

void TypeMarkers(std::string_view chat_template, Vocabulary& vocabulary) {
  const absl::flat_hash_set<std::string> written = Bracketed(chat_template);
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    const std::string& spelling = vocabulary.tokens[i];
    if (vocabulary.types[i] == TokenType::kUserDefined &&
        (LooksLikeMarker(spelling) || written.contains(spelling))) {
      vocabulary.types[i] = TokenType::kMarker;
    }
  }
}

}  // namespace winnow
