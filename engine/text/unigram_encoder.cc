#include "engine/text/unigram_encoder.h"

#include <unicode/utf8.h>

#include <algorithm>
#include <string>
#include <utility>

namespace winnow {
namespace {

constexpr double kUnknownPenalty = 10;
/// Characters from one look at `cancelled` to the next.
constexpr size_t kStride = 4096;

}  // namespace

UnigramEncoder::UnigramEncoder(const Vocabulary& vocabulary) : vocabulary_(vocabulary) {
  byte_tokens_.fill(-1);
  std::vector<std::pair<std::string, int32_t>> pieces;
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    const auto token = static_cast<int32_t>(i);
    if (vocabulary.types[i] == TokenType::kNormal) {
      pieces.emplace_back(vocabulary.tokens[i], token);
    } else if (vocabulary.types[i] == TokenType::kByte && vocabulary.byte_fallback) {
      byte_tokens_[static_cast<unsigned char>(vocabulary.bytes[i][0])] = token;
    }
  }
  pieces_ = SpellingIndex(std::move(pieces), kMaxPieceBytes);
  unknown_score_ = *std::ranges::min_element(vocabulary.scores) - kUnknownPenalty;
  // Where a byte has no token, a run of characters is one token, or none.
  spelled_.fill(std::ranges::all_of(byte_tokens_, [](int32_t token) { return token >= 0; }));
}

void UnigramEncoder::Encode(std::string_view word, const std::atomic<bool>& cancelled,
                            EncoderMemory& memory, std::vector<int32_t>& tokens) const {
  // divisions[i]: how the best division of the first i bytes ends.
  std::vector<DivisionEnd>& divisions = memory.divisions;
  divisions.assign(word.size() + 1, {0, 0, -1});
  size_t characters = 0;
  for (size_t begin = 0; begin < word.size();) {
    if (++characters % kStride == 0 && cancelled.load(std::memory_order_relaxed)) return;
    size_t next = begin;
    U8_FWD_1(word.data(), next, word.size());
    const double score_before = divisions[begin].score;
    const auto offer = [&](size_t length, int32_t token, double score) {
      DivisionEnd& end = divisions[begin + length];
      if (end.bytes == 0 || score_before + score > end.score) {
        end = {score_before + score, static_cast<int32_t>(length), token};
      }
    };
    bool is_token = false;
    pieces_.ForEachPrefix(word.substr(begin, kMaxPieceBytes), [&](size_t length, int32_t token) {
      offer(length, token, vocabulary_.scores[token]);
      is_token = is_token || begin + length == next;
    });
    if (!is_token) offer(next - begin, -1, unknown_score_);
    begin = next;
  }
  // From the end to the beginning, then turned around; unknown characters stay -1 until then.
  std::vector<std::pair<int32_t, size_t>> pieces;  // tokens, and where they end
  for (size_t end = word.size(); end > 0; end -= static_cast<size_t>(divisions[end].bytes)) {
    const int32_t token = divisions[end].token;
    if (token >= 0 || pieces.empty() || pieces.back().first >= 0) pieces.emplace_back(token, end);
  }
  size_t begin = 0;
  for (auto piece = pieces.rbegin(); piece != pieces.rend(); ++piece) {
    const auto [token, end] = *piece;
    if (token >= 0) {
      tokens.push_back(token);
    } else {
      AppendUnknown(word.substr(begin, end - begin), tokens);
    }
    begin = end;
  }
}

void UnigramEncoder::AppendUnknown(std::string_view run, std::vector<int32_t>& tokens) const {
  const auto byte_token = [this](char c) { return byte_tokens_[static_cast<unsigned char>(c)]; };
  if (std::ranges::all_of(run, [&](char c) { return byte_token(c) >= 0; })) {
    for (const char c : run) tokens.push_back(byte_token(c));
  } else if (vocabulary_.unknown_token >= 0) {
    tokens.push_back(vocabulary_.unknown_token);
  }
}

}  // namespace winnow
