#include "engine/text/score_encoder.h"

#include <unicode/utf8.h>

#include <algorithm>
#include <optional>

namespace winnow {

ScoreEncoder::ScoreEncoder(const Vocabulary& vocabulary) : vocabulary_(vocabulary) {
  byte_tokens_.fill(-1);
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    const auto token = static_cast<int32_t>(i);
    const std::string& spelling = vocabulary.tokens[i];
    if (vocabulary.types[i] == TokenType::kByte) {
      byte_tokens_[static_cast<unsigned char>(vocabulary.bytes[i][0])] = token;
    } else if (vocabulary.types[i] == TokenType::kNormal) {
      max_piece_bytes_ = std::max(max_piece_bytes_, spelling.size());
      pieces_.emplace(spelling, token);
    }
  }
  // Where a byte has no token, a run of characters is one token, or none.
  spelled_.fill(std::ranges::all_of(byte_tokens_, [](int32_t token) { return token >= 0; }));
}

int32_t ScoreEncoder::FindPiece(std::string_view piece) const {
  if (piece.size() > max_piece_bytes_) return -1;
  const auto found = pieces_.find(piece);
  return found == pieces_.end() ? -1 : found->second;
}

/// A word for PairMerger: its characters, and the pieces of the vocabulary.
class ScoreEncoder::WordRules {
 public:
  WordRules(const ScoreEncoder& encoder, std::string_view text, const std::atomic<bool>& cancelled,
            std::vector<int32_t>& tokens)
      : encoder_(encoder),
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
    const int32_t token = encoder_.FindPiece(text_.substr(left.begin, right.end - left.begin));
    if (token < 0) return std::nullopt;
    return PairMerge{-encoder_.vocabulary_.scores[token], token};
  }
  void Accept(const Piece& piece) {
    const std::string_view spelling = text_.substr(piece.begin, piece.end - piece.begin);
    const int32_t token = piece.token >= 0 ? piece.token : encoder_.FindPiece(spelling);
    if (token >= 0) {
      tokens_.push_back(token);
    } else {
      encoder_.AppendUnknown(spelling, after_unknown_, tokens_);
    }
    after_unknown_ = token < 0;
  }
  void Restart() {
    tokens_.resize(before_);
    after_unknown_ = false;
  }
  bool Cancelled() const { return cancelled_.load(std::memory_order_relaxed); }

 private:
  const ScoreEncoder& encoder_;
  const std::string_view text_;
  const std::atomic<bool>& cancelled_;
  std::vector<int32_t>& tokens_;
  const size_t before_;
  bool after_unknown_ = false;
};

void ScoreEncoder::Encode(std::string_view word, const std::atomic<bool>& cancelled,
                          EncoderMemory& memory, std::vector<int32_t>& tokens) const {
  WordRules rules(*this, word, cancelled, tokens);
  memory.merger.Merge(rules);
}

void ScoreEncoder::AppendUnknown(std::string_view piece, bool after_unknown,
                                 std::vector<int32_t>& tokens) const {
  const auto byte_token = [this](char c) { return byte_tokens_[static_cast<unsigned char>(c)]; };
  if (std::all_of(piece.begin(), piece.end(), [&](char c) { return byte_token(c) >= 0; })) {
    for (const char c : piece) tokens.push_back(byte_token(c));
  } else if (const int32_t unknown = vocabulary_.unknown_token;
             unknown >= 0 && !(after_unknown && tokens.back() == unknown)) {
    // A run of unknown characters is one unknown token.
    tokens.push_back(unknown);
  }
}

}  // namespace winnow
