#include "engine/text/tokenizer_bpe.h"

#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>
#include <unicode/utf8.h>

#include <algorithm>
#include <limits>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

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

bool IsValidUtf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    UChar32 c;
    U8_NEXT(text.data(), i, text.size(), c);
    if (c < 0) return false;
  }
  return true;
}

/// A text is at most so many times as long as its normalisation form C: Hangul syllables, which
/// take 3 bytes, are composed of three letters of 3 bytes each, and the Kelvin sign becomes a K.
constexpr size_t kMaxNfcShrinkage = 3;

/// Unicode normalisation form C; text with invalid UTF-8 comes back as it is.
std::string NormalizeNfc(std::string_view text) {
  UErrorCode error = U_ZERO_ERROR;
  const icu::Normalizer2* nfc = icu::Normalizer2::getNFCInstance(error);
  std::string normalized;
  if (U_SUCCESS(error) && IsValidUtf8(text)) {
    icu::StringByteSink<std::string> sink(&normalized, static_cast<int32_t>(text.size()));
    nfc->normalizeUTF8(0, icu::StringPiece(text.data(), static_cast<int32_t>(text.size())), sink,
                       nullptr, error);
    if (U_SUCCESS(error)) return normalized;
  }
  return std::string(text);
}

/// Order of the heap: the lowest rank, then the leftmost, on top.
template <typename Candidate>
bool MergesLater(const Candidate& a, const Candidate& b) {
  return std::pair(a.rank, a.left) > std::pair(b.rank, b.left);
}

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
  const std::atomic<bool> cancelled = false;
  Scratch scratch;
  std::vector<int32_t> tokens;
  for (int32_t token = 0; token < vocab_size(); ++token) {
    const std::string& bytes = token_bytes()[token];
    if (vocabulary.types[token] != TokenType::kNormal || bytes.empty()) continue;
    if (!pretokenizer_.ignores_merges) {
      tokens.clear();
      MergeWord(bytes, cancelled, scratch, tokens);
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
  Scratch scratch;
  for (std::string_view word : SplitWords(pretokenizer_.pattern, text)) {
    if (cancelled.load(std::memory_order_relaxed)) return;
    EncodeWord(word, cancelled, scratch, tokens);
  }
}

void BpeTokenizer::EncodeWord(std::string_view word, const std::atomic<bool>& cancelled,
                              Scratch& scratch, std::vector<int32_t>& tokens) const {
  if (const auto found = whole_words_.find(word); found != whole_words_.end()) {
    tokens.push_back(found->second);
  } else {
    MergeWord(word, cancelled, scratch, tokens);
  }
}

void BpeTokenizer::MergeWord(std::string_view word, const std::atomic<bool>& cancelled,
                             Scratch& scratch, std::vector<int32_t>& tokens) const {
  auto& [symbols, heap] = scratch;
  symbols.clear();
  heap.clear();
  for (const char c : word) {
    const int32_t token = byte_tokens_[static_cast<unsigned char>(c)];
    if (token < 0) continue;  // As models were trained: what can't be spelled is left out.
    const auto index = static_cast<int32_t>(symbols.size());
    symbols.push_back({.token = token, .previous = index - 1, .next = index + 1});
  }
  if (symbols.empty()) return;
  symbols.back().next = -1;
  for (size_t i = 0; i + 1 < symbols.size(); ++i) {
    PushCandidate(static_cast<int32_t>(i), static_cast<int32_t>(i + 1), scratch);
  }
  while (!heap.empty() && !cancelled.load(std::memory_order_relaxed)) {
    std::pop_heap(heap.begin(), heap.end(), MergesLater<Candidate>);
    const Candidate merge = heap.back();
    heap.pop_back();
    Symbol& left = symbols[merge.left];
    if (left.token != merge.left_token || left.next < 0) continue;
    Symbol& right = symbols[left.next];
    if (right.token != merge.right_token) continue;
    left.token = merge.merged_token;
    left.next = right.next;
    right.token = -1;
    if (left.next >= 0) {
      symbols[left.next].previous = merge.left;
      PushCandidate(merge.left, left.next, scratch);
    }
    if (left.previous >= 0) PushCandidate(left.previous, merge.left, scratch);
  }
  for (int32_t i = 0; i >= 0; i = symbols[i].next) tokens.push_back(symbols[i].token);
}

void BpeTokenizer::PushCandidate(int32_t left, int32_t right, Scratch& scratch) const {
  const int32_t left_token = scratch.symbols[left].token;
  const int32_t right_token = scratch.symbols[right].token;
  const auto found = merges_.find(PairKey(left_token, right_token));
  if (found == merges_.end()) return;
  scratch.heap.push_back({.rank = found->second.rank,
                          .left = left,
                          .left_token = left_token,
                          .right_token = right_token,
                          .merged_token = found->second.token});
  std::push_heap(scratch.heap.begin(), scratch.heap.end(), MergesLater<Candidate>);
}

}  // namespace winnow
