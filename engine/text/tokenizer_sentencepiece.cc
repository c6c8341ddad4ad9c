#include "engine/text/tokenizer_sentencepiece.h"

#include <unicode/utf8.h>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/text/pair_merger.h"

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

/// A text for PairMerger: its characters, and the pieces of the vocabulary.
class SentencePieceTokenizer::TextRules {
 public:
  TextRules(const SentencePieceTokenizer& tokenizer, std::string_view text,
            const std::atomic<bool>& cancelled, std::vector<int32_t>& tokens)
      : tokenizer_(tokenizer),
        text_(text),
        cancelled_(cancelled),
        tokens_(tokens),
        before_(tokens.size()) {}

  bool Next(size_t& position, Piece& piece) const {
    if (position == text_.size()) return false;
    const size_t begin = position;
    U8_FWD_1(text_.data(), position, text_.size());
    piece = {begin, position, -1};  // looked up once it stays alone
    return true;
  }
  std::optional<PairMerge> Join(const Piece& left, const Piece& right) const {
    const int32_t token = tokenizer_.FindPiece(text_.substr(left.begin, right.end - left.begin));
    if (token < 0) return std::nullopt;
    return PairMerge{-static_cast<double>(tokenizer_.scores_[token]), token};
  }
  void Accept(const Piece& piece) {
    const std::string_view spelling = text_.substr(piece.begin, piece.end - piece.begin);
    const int32_t token = piece.token >= 0 ? piece.token : tokenizer_.FindPiece(spelling);
    if (token >= 0) {
      tokens_.push_back(token);
    } else {
      tokenizer_.AppendUnknown(spelling, after_unknown_, tokens_);
    }
    after_unknown_ = token < 0;
  }
  void Restart() {
    tokens_.resize(before_);
    after_unknown_ = false;
  }
  bool Cancelled() const { return cancelled_.load(std::memory_order_relaxed); }

 private:
  const SentencePieceTokenizer& tokenizer_;
  const std::string_view text_;
  const std::atomic<bool>& cancelled_;
  std::vector<int32_t>& tokens_;
  const size_t before_;
  bool after_unknown_ = false;
};

void SentencePieceTokenizer::EncodeText(std::string_view text, const std::atomic<bool>& cancelled,
                                        std::vector<int32_t>& tokens) const {
  const std::string marked = MarkSpaces(text, add_space_prefix_);
  TextRules rules(*this, marked, cancelled, tokens);
  PairMerger().Merge(rules);
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
