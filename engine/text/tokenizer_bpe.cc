#include "engine/text/tokenizer_bpe.h"

#include <unicode/utf8.h>

#include <algorithm>
#include <limits>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/text/normalize.h"

namespace winnow {
namespace {

uint64_t PairKey(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

/// The byte that a code point of a token's spelling stands for, or -1. Byte-level vocabularies are
/// spelled with printable characters: bytes that are printable in Latin-1 stand for themselves, the
/// others are numbered from U+0100 on.
class ByteSpelling {
 public:
  ByteSpelling() {
    bytes_.fill(-1);
    UChar32 next = 256;
    for (int byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte != 0xAD);
      bytes_[printable ? byte : next++] = byte;
    }
  }

  /// The bytes of a spelling. Characters that stand for no byte are kept as they are.
  std::string Decode(std::string_view spelling) const {
    std::string bytes;
    for (size_t i = 0; i < spelling.size();) {
      const size_t begin = i;
      UChar32 c;
      U8_NEXT(spelling.data(), i, spelling.size(), c);
      if (c >= 0 && c < static_cast<UChar32>(bytes_.size()) && bytes_[c] >= 0) {
        bytes.push_back(static_cast<char>(bytes_[c]));
      } else {
        bytes.append(spelling.substr(begin, i - begin));
      }
    }
    return bytes;
  }

 private:
  std::array<int, 512> bytes_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> BpeTokenizer::Create(const Vocabulary& vocabulary) {
  const std::optional<Pretokenizer> pretokenizer = FindPretokenizer(vocabulary.pretokenizer);
  if (!pretokenizer) {
    return absl::UnimplementedError(absl::StrCat("tokenizer.ggml.pre is '", vocabulary.pretokenizer,
                                                 "', a pre-tokenizer that Winnow does not know."));
  }
  if (vocabulary.merges.empty()) {
    return absl::InvalidArgumentError(
        "tokenizer.ggml.merges is missing, which byte pair encoding needs.");
  }
  if (vocabulary.add_bos.value_or(false) && vocabulary.bos_token < 0) {
    return absl::InvalidArgumentError(
        "tokenizer.ggml.bos_token_id is missing, but add_bos_token is set.");
  }
  const ByteSpelling spelling;
  std::vector<std::string> token_bytes;
  token_bytes.reserve(vocabulary.tokens.size());
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    token_bytes.push_back(vocabulary.types[i] == TokenType::kNormal
                              ? spelling.Decode(vocabulary.tokens[i])
                              : vocabulary.tokens[i]);
  }
  std::unique_ptr<BpeTokenizer> tokenizer(
      new BpeTokenizer(vocabulary, *pretokenizer, std::move(token_bytes)));
  if (absl::Status status = tokenizer->ReadMerges(vocabulary); !status.ok()) return status;
  tokenizer->FindWholeWords(vocabulary);
  return tokenizer;
}

BpeTokenizer::BpeTokenizer(const Vocabulary& vocabulary, const Pretokenizer& pretokenizer,
                           std::vector<std::string> token_bytes)
    : VocabularyTokenizer(
          vocabulary, std::move(token_bytes),
          vocabulary.bos_token >= 0 && vocabulary.add_bos.value_or(pretokenizer.adds_bos)),
      pretokenizer_(pretokenizer) {
  byte_tokens_.fill(-1);
  for (int32_t token = 0; token < vocab_size(); ++token) {
    const std::string& bytes = this->token_bytes()[token];
    max_token_bytes_ = std::max(max_token_bytes_, bytes.size());
    if (vocabulary.types[token] != TokenType::kNormal || bytes.size() != 1) continue;
    int32_t& byte_token = byte_tokens_[static_cast<unsigned char>(bytes[0])];
    if (byte_token < 0) byte_token = token;
  }
}

absl::Status BpeTokenizer::ReadMerges(const Vocabulary& vocabulary) {
  if (vocabulary.merges.size() > std::numeric_limits<int32_t>::max()) {
    return absl::InvalidArgumentError("tokenizer.ggml.merges has more than 2^31 entries.");
  }
  absl::flat_hash_map<std::string_view, int32_t> ids;
  ids.reserve(vocabulary.tokens.size());
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    // Not control tokens: else ordinary text could merge into one.
    const TokenType type = vocabulary.types[i];
    if (type == TokenType::kNormal || type == TokenType::kUserDefined) {
      ids.emplace(vocabulary.tokens[i], static_cast<int32_t>(i));
    }
  }
  merges_.reserve(vocabulary.merges.size());
  std::string joined;
  for (size_t rank = 0; rank < vocabulary.merges.size(); ++rank) {
    const std::string_view merge = vocabulary.merges[rank];
    const size_t space = merge.find(' ');
    if (space == std::string_view::npos) {
      return absl::InvalidArgumentError(
          absl::StrCat("tokenizer.ggml.merges has an entry without a space at ", rank, "."));
    }
    joined.assign(merge.substr(0, space)).append(merge.substr(space + 1));
    const auto left = ids.find(merge.substr(0, space));
    const auto right = ids.find(merge.substr(space + 1));
    const auto merged = ids.find(joined);
    if (left == ids.end() || right == ids.end() || merged == ids.end()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "tokenizer.ggml.merges names at ", rank, " a token that the vocabulary lacks as text."));
    }
    merges_.emplace(PairKey(left->second, right->second),
                    Merge{static_cast<int32_t>(rank), merged->second});
  }
  return absl::OkStatus();
}

void BpeTokenizer::FindWholeWords(const Vocabulary& vocabulary) {
  PairMerger merger;
  std::vector<int32_t> tokens;
  for (int32_t token = 0; token < vocab_size(); ++token) {
    const std::string& bytes = token_bytes()[token];
    if (vocabulary.types[token] != TokenType::kNormal || bytes.empty()) continue;
    if (!pretokenizer_.ignores_merges) {
      tokens.clear();
      MergeWord(bytes, /*cancelled=*/false, merger, tokens);
      if (tokens != std::vector<int32_t>{token}) continue;
    }
    whole_words_.emplace(bytes, token);
  }
}

size_t BpeTokenizer::LeastTokens(std::span<const TextSegment> segments) const {
  const auto spelled = [this](char c) { return byte_tokens_[static_cast<unsigned char>(c)] >= 0; };
  size_t bytes = 0;
  for (const TextSegment& segment : segments) {
    bytes += static_cast<size_t>(std::ranges::count_if(segment.text, spelled));
  }
  if (pretokenizer_.normalizes_nfc) {
    // What it composes may be spelled by other bytes than what it is composed of.
    const bool all = std::ranges::all_of(byte_tokens_, [](int32_t token) { return token >= 0; });
    bytes = all ? bytes / kMaxNfcShrinkage : 0;
  }
  return (bytes + max_token_bytes_ - 1) / max_token_bytes_;
}

void BpeTokenizer::EncodeText(std::string_view text, const std::atomic<bool>& cancelled,
                              std::vector<int32_t>& tokens) const {
  std::string normalized;
  if (pretokenizer_.normalizes_nfc) {
    normalized = NormalizeNfc(text);
    text = normalized;
  }
  PairMerger merger;
  ForEachWord(pretokenizer_.pattern, text, [&](std::string_view word) {
    if (const auto found = whole_words_.find(word); found != whole_words_.end()) {
      tokens.push_back(found->second);
    } else {
      MergeWord(word, cancelled, merger, tokens);
    }
    return !cancelled.load(std::memory_order_relaxed);
  });
}

/// A word for PairMerger: its bytes, and the merges of the vocabulary.
class BpeTokenizer::WordRules {
 public:
  WordRules(const BpeTokenizer& tokenizer, std::string_view word,
            const std::atomic<bool>& cancelled, std::vector<int32_t>& tokens)
      : tokenizer_(tokenizer),
        word_(word),
        cancelled_(cancelled),
        tokens_(tokens),
        before_(tokens.size()) {}

  bool Next(size_t& position, Piece& piece) const {
    while (position < word_.size()) {
      const int32_t token = tokenizer_.byte_tokens_[static_cast<unsigned char>(word_[position])];
      piece = {position, position + 1, token};
      ++position;
      if (token >= 0) return true;
      // As models were trained: what can't be spelled is left out.
    }
    return false;
  }
  std::optional<PairMerge> Join(const Piece& left, const Piece& right) const {
    const auto found = tokenizer_.merges_.find(PairKey(left.token, right.token));
    if (found == tokenizer_.merges_.end()) return std::nullopt;
    return PairMerge{static_cast<double>(found->second.rank), found->second.token};
  }
  void Accept(const Piece& piece) { tokens_.push_back(piece.token); }
  void Restart() { tokens_.resize(before_); }
  bool Cancelled() const { return cancelled_.load(std::memory_order_relaxed); }

 private:
  const BpeTokenizer& tokenizer_;
  const std::string_view word_;
  const std::atomic<bool>& cancelled_;
  std::vector<int32_t>& tokens_;
  const size_t before_;
};

void BpeTokenizer::MergeWord(std::string_view word, const std::atomic<bool>& cancelled,
                             PairMerger& merger, std::vector<int32_t>& tokens) const {
  WordRules rules(*this, word, cancelled, tokens);
  merger.Merge(rules);
}

}  // namespace winnow
