#include "engine/text/tokenizer_sentencepiece.h"

#include <unicode/utf8.h>

#include <algorithm>
#include <optional>
#include <queue>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace winnow {
namespace {

constexpr std::string_view kSpaceMark = "\u2581";

std::string MarkSpaces(std::string_view text, bool prefix) {
  std::string marked;
  marked.reserve(text.size() + text.size() / 2);
  if (prefix) marked.append(kSpaceMark);
  for (const char c : text) {
    if (c == ' ') {
      marked.append(kSpaceMark);
    } else {
      marked.push_back(c);
    }
  }
  return marked;
}

std::string UnmarkSpaces(std::string_view piece) {
  std::string text;
  for (size_t begin = 0;;) {
    const size_t mark = piece.find(kSpaceMark, begin);
    text.append(piece.substr(begin, mark - begin));
    if (mark == std::string_view::npos) return text;
    text.push_back(' ');
    begin = mark + kSpaceMark.size();
  }
}

/// A piece of the text that is being merged, in a doubly linked list.
struct Symbol {
  size_t begin;
  size_t length;  ///< in bytes; 0 once merged into its left neighbour
  int32_t previous;
  int32_t next;
};

/// Two neighbours that together are a token. Stale if either has grown since.
struct Candidate {
  float score;
  int32_t left;   ///< index of the symbol
  size_t length;  ///< of both together

  bool operator<(const Candidate& other) const {
    return score != other.score ? score < other.score : left > other.left;
  }
};

std::vector<Symbol> SplitCharacters(std::string_view text) {
  std::vector<Symbol> symbols;
  symbols.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const size_t begin = i;
    U8_FWD_1(text.data(), i, text.size());
    const auto index = static_cast<int32_t>(symbols.size());
    symbols.push_back({begin, i - begin, index - 1, index + 1});
  }
  if (!symbols.empty()) symbols.back().next = -1;
  return symbols;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> SentencePieceTokenizer::Create(
    const Vocabulary& vocabulary) {
  if (vocabulary.scores.empty()) {
    return absl::InvalidArgumentError(
        "tokenizer.ggml.scores is missing, which a 'llama' tokenizer needs.");
  }
  if (vocabulary.add_bos.value_or(true) && vocabulary.bos_token < 0) {
    return absl::InvalidArgumentError(
        "tokenizer.ggml.bos_token_id is missing, but add_bos_token is set or left at its default.");
  }
  std::vector<std::string> token_bytes;
  token_bytes.reserve(vocabulary.tokens.size());
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    const std::string& token = vocabulary.tokens[i];
    switch (vocabulary.types[i]) {
      case TokenType::kByte: {
        const std::optional<unsigned char> byte = ParseByteToken(token);
        if (!byte) {
          return absl::InvalidArgumentError(absl::StrCat("tokenizer.ggml.tokens spells byte token ",
                                                         i, " not as \"<0x00>\" to \"<0xFF>\"."));
        }
        token_bytes.emplace_back(1, static_cast<char>(*byte));
        break;
      }
      case TokenType::kNormal:
        token_bytes.push_back(UnmarkSpaces(token));
        break;
      default:
        token_bytes.push_back(token);
        break;
    }
  }
  return std::unique_ptr<Tokenizer>(new SentencePieceTokenizer(vocabulary, std::move(token_bytes)));
}

SentencePieceTokenizer::SentencePieceTokenizer(const Vocabulary& vocabulary,
                                               std::vector<std::string> token_bytes)
    : VocabularyTokenizer(vocabulary, std::move(token_bytes), vocabulary.add_bos.value_or(true)),
      scores_(vocabulary.scores),
      unknown_token_(vocabulary.unknown_token),
      add_space_prefix_(vocabulary.add_space_prefix) {
  byte_tokens_.fill(-1);
  for (int32_t i = 0; i < vocab_size(); ++i) {
    max_spelling_bytes_ = std::max(max_spelling_bytes_, vocabulary.tokens[i].size());
    if (vocabulary.types[i] == TokenType::kByte) {
      byte_tokens_[static_cast<unsigned char>(this->token_bytes()[i][0])] = i;
    } else if (vocabulary.types[i] == TokenType::kNormal) {
      max_piece_bytes_ = std::max(max_piece_bytes_, vocabulary.tokens[i].size());
      pieces_.emplace(vocabulary.tokens[i], i);
    }
  }
}

int32_t SentencePieceTokenizer::FindPiece(std::string_view piece) const {
  if (piece.size() > max_piece_bytes_) return -1;
  const auto found = pieces_.find(absl::string_view(piece.data(), piece.size()));
  return found == pieces_.end() ? -1 : found->second;
}

size_t SentencePieceTokenizer::LeastTokens(std::span<const TextSegment> segments) const {
  // A run of characters that no byte token spells is one token, or none.
  if (std::ranges::any_of(byte_tokens_, [](int32_t token) { return token < 0; })) return 0;
  size_t bytes = 0;
  for (const TextSegment& segment : segments) bytes += segment.text.size();
  return (bytes + max_spelling_bytes_ - 1) / max_spelling_bytes_;
}

void SentencePieceTokenizer::EncodeText(std::string_view text, const std::atomic<bool>& cancelled,
                                        std::vector<int32_t>& tokens) const {
  const std::string marked = MarkSpaces(text, add_space_prefix_);
  std::vector<Symbol> symbols = SplitCharacters(marked);
  std::priority_queue<Candidate> candidates;
  const auto piece = [&](size_t begin, size_t length) {
    return std::string_view(marked).substr(begin, length);
  };
  const auto push = [&](int32_t left, int32_t right) {
    const size_t length = symbols[left].length + symbols[right].length;
    const int32_t token = FindPiece(piece(symbols[left].begin, length));
    if (token >= 0) candidates.push({scores_[token], left, length});
  };
  for (size_t i = 0; i + 1 < symbols.size(); ++i) {
    push(static_cast<int32_t>(i), static_cast<int32_t>(i + 1));
  }
  while (!candidates.empty() && !cancelled.load(std::memory_order_relaxed)) {
    const Candidate merge = candidates.top();
    candidates.pop();
    Symbol& left = symbols[merge.left];
    if (left.length == 0 || left.next < 0) continue;
    Symbol& right = symbols[left.next];
    if (left.length + right.length != merge.length) continue;
    left.length = merge.length;
    left.next = right.next;
    right.length = 0;
    if (left.next >= 0) {
      symbols[left.next].previous = merge.left;
      push(merge.left, left.next);
    }
    if (left.previous >= 0) push(left.previous, merge.left);
  }
  bool after_unknown = false;
  for (int32_t i = 0; i >= 0; i = symbols[i].next) {
    const std::string_view final_piece = piece(symbols[i].begin, symbols[i].length);
    const int32_t token = FindPiece(final_piece);
    if (token >= 0) {
      tokens.push_back(token);
    } else {
      AppendUnknown(final_piece, after_unknown, tokens);
    }
    after_unknown = token < 0;
  }
}

void SentencePieceTokenizer::AppendUnknown(std::string_view piece, bool after_unknown,
                                           std::vector<int32_t>& tokens) const {
  const auto byte_token = [this](char c) { return byte_tokens_[static_cast<unsigned char>(c)]; };
  if (std::all_of(piece.begin(), piece.end(), [&](char c) { return byte_token(c) >= 0; })) {
    for (const char c : piece) tokens.push_back(byte_token(c));
  } else if (unknown_token_ >= 0 && !(after_unknown && tokens.back() == unknown_token_)) {
    // A run of unknown characters is one unknown token.
    tokens.push_back(unknown_token_);
  }
}

}  // namespace winnow
