#include "engine/text/merge_encoder.h"

#include <unicode/utf8.h>

#include <algorithm>
#include <optional>

namespace winnow {
namespace {

uint64_t PairKey(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

/// Whether ordinary text may become the token.
bool IsText(TokenType type) {
  return type == TokenType::kNormal || type == TokenType::kUserDefined || type == TokenType::kByte;
}

size_t CharacterEnd(std::string_view text, size_t position) {
  U8_FWD_1(text.data(), position, text.size());
  return position;
}

}  // namespace

MergeEncoder::MergeEncoder(const Vocabulary& vocabulary)
    : vocabulary_(vocabulary), by_bytes_(vocabulary.token_model == TokenModel::kByteMerges) {
  byte_tokens_.fill(-1);
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    const auto token = static_cast<int32_t>(i);
    const TokenType type = vocabulary.types[i];
    const std::string& bytes = vocabulary.bytes[i];
    const std::string& spelling = vocabulary.tokens[i];
    if (by_bytes_ ? type == TokenType::kNormal && bytes.size() == 1 : type == TokenType::kByte) {
      int32_t& byte_token = byte_tokens_[static_cast<unsigned char>(bytes[0])];
      if (byte_token < 0) byte_token = token;
    } else if (!by_bytes_ && (type == TokenType::kNormal || type == TokenType::kUserDefined) &&
               !spelling.empty() && CharacterEnd(spelling, 0) == spelling.size()) {
      characters_.emplace(spelling, token);
    }
  }
  if (!by_bytes_ && !vocabulary.byte_fallback) byte_tokens_.fill(-1);
  std::ranges::transform(byte_tokens_, spelled_.begin(), [](int32_t token) { return token >= 0; });
  merges_.reserve(vocabulary.merges.size());
  for (size_t rank = 0; rank < vocabulary.merges.size(); ++rank) {
    const TokenMerge& merge = vocabulary.merges[rank];
    if (!IsText(vocabulary.types[merge.merged])) continue;
    merges_.emplace(PairKey(merge.left, merge.right),
                    Merge{static_cast<int32_t>(rank), merge.merged});
  }
  // A text that is not split is hardly ever one token.
  if (!vocabulary.splits.empty() || vocabulary.ignores_merges) {
    FindWholeWords(by_bytes_ ? vocabulary.bytes : vocabulary.tokens);
  }
}

void MergeEncoder::FindWholeWords(const std::vector<std::string>& spellings) {
  EncoderMemory memory;
  std::vector<int32_t> tokens;
  for (size_t i = 0; i < spellings.size(); ++i) {
    const auto token = static_cast<int32_t>(i);
    if (vocabulary_.types[i] != TokenType::kNormal || spellings[i].empty()) continue;
    if (!vocabulary_.ignores_merges) {
      tokens.clear();
      MergeWord(spellings[i], /*cancelled=*/false, memory, tokens);
      if (tokens != std::vector<int32_t>{token}) continue;
    }
    whole_words_.emplace(spellings[i], token);
  }
}

void MergeEncoder::Encode(std::string_view word, const std::atomic<bool>& cancelled,
                          EncoderMemory& memory, std::vector<int32_t>& tokens) const {
  if (const auto found = whole_words_.find(word); found != whole_words_.end()) {
    tokens.push_back(found->second);
  } else {
    MergeWord(word, cancelled, memory, tokens);
  }
}

MergeEncoder::Symbol MergeEncoder::SymbolAt(std::string_view word, size_t position) const {
  const auto byte_token = [&](size_t at) {
    return byte_tokens_[static_cast<unsigned char>(word[at])];
  };
  size_t end = position + 1;
  if (by_bytes_) {
    if (const int32_t token = byte_token(position); token >= 0) return {end, token, false};
  } else {
    end = CharacterEnd(word, position);
    const auto found = characters_.find(word.substr(position, end - position));
    if (found != characters_.end()) return {end, found->second, false};
    bool spelled = true;
    for (size_t at = position; at < end; ++at) spelled = spelled && byte_token(at) >= 0;
    // The character's other bytes, alone, are no characters, and are spelled likewise.
    if (spelled) return {position + 1, byte_token(position), false};
  }
  return {end, vocabulary_.unknown_token, vocabulary_.unknown_token >= 0};
}

/// A word for PairMerger: its symbols, and the merges of the vocabulary.
class MergeEncoder::WordRules {
 public:
  WordRules(const MergeEncoder& encoder, std::string_view word, const std::atomic<bool>& cancelled,
            std::vector<int32_t>& tokens)
      : encoder_(encoder),
        word_(word),
        cancelled_(cancelled),
        tokens_(tokens),
        before_(tokens.size()) {}

  bool Next(size_t& position, Piece& piece) const {
    while (position < word_.size()) {
      const size_t begin = position;
      const Symbol symbol = encoder_.SymbolAt(word_, position);
      position = symbol.end;
      // As models were trained: what can't be spelled is left out.
      if (symbol.token < 0) continue;
      if (symbol.unknown && encoder_.vocabulary_.fuses_unknown) position = UnknownEnd(position);
      piece = {begin, position, symbol.token};
      return true;
    }
    return false;
  }
  std::optional<PairMerge> Join(const Piece& left, const Piece& right) const {
    const auto found = encoder_.merges_.find(PairKey(left.token, right.token));
    if (found == encoder_.merges_.end()) return std::nullopt;
    return PairMerge{static_cast<double>(found->second.rank), found->second.token};
  }
  void Accept(const Piece& piece) { tokens_.push_back(piece.token); }
  void Restart() { tokens_.resize(before_); }
  bool Cancelled() const { return cancelled_.load(std::memory_order_relaxed); }

 private:
  /// Where a run of unknown characters ends that has begun before.
  size_t UnknownEnd(size_t position) const {
    while (position < word_.size()) {
      const Symbol next = encoder_.SymbolAt(word_, position);
      if (!next.unknown) break;
      position = next.end;
    }
    return position;
  }

  const MergeEncoder& encoder_;
  const std::string_view word_;
  const std::atomic<bool>& cancelled_;
  std::vector<int32_t>& tokens_;
  const size_t before_;
};

void MergeEncoder::MergeWord(std::string_view word, const std::atomic<bool>& cancelled,
                             EncoderMemory& memory, std::vector<int32_t>& tokens) const {
  WordRules rules(*this, word, cancelled, tokens);
  memory.merger.Merge(rules);
}

}  // namespace winnow
