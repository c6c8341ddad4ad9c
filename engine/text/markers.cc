#include "engine/text/markers.h"

#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"

namespace winnow {
namespace {

constexpr std::array<std::string_view, 10> kTurnEnds = {
    "<|im_end|>",    "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>",
    "<end_of_turn>", "<|end|>",       "</s>",       "<EOT>",      "<eos>"};

constexpr std::string_view kWhitespace = " \t\r\n";
constexpr size_t kMaxBracketedBytes = 128;

struct Brackets {
  std::string_view open, close;
};
constexpr Brackets kBars = {"<|", "|>"}, kWideBars = {"<｜", "｜>"}, kAngles = {"<", ">"};

/// Whether the text holds the brackets with something between them.
bool Holds(std::string_view text, const Brackets& brackets) {
  const size_t open = text.find(brackets.open);
  return open != std::string_view::npos &&
         text.find(brackets.close, open + brackets.open.size() + 1) != std::string_view::npos;
}

/// Whether the text is a name in these brackets from end to end.
bool IsNameIn(std::string_view text, const Brackets& brackets) {
  const auto& [open, close] = brackets;
  if (text.size() <= open.size() + close.size() || !text.starts_with(open) ||
      !text.ends_with(close)) {
    return false;
  }
  const std::string_view name = text.substr(open.size(), text.size() - open.size() - close.size());
  return name.find_first_of(" \t\r\n<>|\"'=") == std::string_view::npos;
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

/// Drops from `tokens`, ids that are sorted, those that merges make.
void DropMerged(const Vocabulary& vocabulary, std::vector<int32_t>& tokens) {
  if (tokens.empty()) return;
  absl::flat_hash_set<std::string> spellings;
  for (const int32_t token : tokens) spellings.insert(vocabulary.tokens[token]);
  for (const TokenMerge& merge : vocabulary.merges) {
    spellings.erase(vocabulary.tokens[merge.merged]);
  }
  std::erase_if(tokens,
                [&](int32_t token) { return !spellings.contains(vocabulary.tokens[token]); });
}

}  // namespace

bool IsTurnEnd(std::string_view spelling) {
  return std::find(kTurnEnds.begin(), kTurnEnds.end(), spelling) != kTurnEnds.end();
}

void TypeMarkers(std::string_view chat_templates, Vocabulary& vocabulary) {
  const absl::flat_hash_set<std::string> written = Bracketed(chat_templates);
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    const std::string& spelling = vocabulary.tokens[i];
    const auto token = static_cast<int32_t>(i);
    if (vocabulary.types[i] == TokenType::kUserDefined) {
      if (Holds(spelling, kBars) || Holds(spelling, kWideBars) || IsTurnEnd(spelling) ||
          written.contains(spelling)) {
        vocabulary.types[i] = TokenType::kMarker;
      }
    } else if (vocabulary.types[i] == TokenType::kNormal) {
      const bool named = token == vocabulary.bos_token || token == vocabulary.eos_token ||
                         token == vocabulary.unknown_token;
      if (IsNameIn(spelling, kBars) || IsNameIn(spelling, kWideBars) || IsTurnEnd(spelling) ||
          (IsNameIn(spelling, kAngles) && (named || written.contains(spelling)))) {
        vocabulary.recognised.push_back(token);
      }
    }
  }
  DropMerged(vocabulary, vocabulary.recognised);
  for (const int32_t token : vocabulary.recognised) {
    vocabulary.types[token] = TokenType::kControl;
  }
}

}  // namespace winnow
