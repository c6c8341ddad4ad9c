#include "engine/text/vocabulary_tokenizer.h"

#include <algorithm>
#include <utility>

#include "engine/text/characters.h"
#include "engine/text/merge_encoder.h"
#include "engine/text/score_encoder.h"
#include "engine/text/unigram_encoder.h"

namespace winnow {
namespace {

/// Whether a token never stands for text of its own.
bool IsControl(TokenType type) {
  return type == TokenType::kControl || type == TokenType::kUnknown || type == TokenType::kUnused;
}

std::unique_ptr<const WordEncoder> CreateEncoder(const Vocabulary& vocabulary) {
  switch (vocabulary.token_model) {
    case TokenModel::kByteMerges:
    case TokenModel::kCharacterMerges:
      return std::make_unique<MergeEncoder>(vocabulary);
    case TokenModel::kScores:
      return std::make_unique<ScoreEncoder>(vocabulary);
    case TokenModel::kUnigram:
      return std::make_unique<UnigramEncoder>(vocabulary);
  }
  return nullptr;
}

AddedToken MarksOf(const Vocabulary& vocabulary, int32_t token) {
  const auto found = vocabulary.added.find(token);
  return found == vocabulary.added.end() ? AddedToken() : found->second;
}

}  // namespace

struct VocabularyTokenizer::Encoding {
  const std::atomic<bool>& cancelled;
  EncoderMemory memory = {};
  std::vector<int32_t> tokens = {};

  bool Cancelled() const { return cancelled.load(std::memory_order_relaxed); }
};

VocabularyTokenizer::VocabularyTokenizer(Vocabulary vocabulary)
    : vocabulary_(std::move(vocabulary)), encoder_(CreateEncoder(vocabulary_)) {
  vocabulary_.merges = {};  // the encoder has its own
  plain_ = IndexOf(Finding::kPlain);
  special_ = IndexOf(Finding::kSpecial);
  normalized_ = IndexOf(Finding::kNormalized);
  // Words of bytes are spelled in bytes, others as the vocabulary's file spells them.
  const bool by_bytes = vocabulary_.token_model == TokenModel::kByteMerges;
  for (const std::string& spelling : by_bytes ? vocabulary_.bytes : vocabulary_.tokens) {
    max_token_bytes_ = std::max(max_token_bytes_, spelling.size());
  }
  strips_whitespace_ = std::ranges::any_of(vocabulary_.added, [](const auto& entry) {
    return entry.second.strips_left || entry.second.strips_right;
  });
}

SpellingIndex VocabularyTokenizer::IndexOf(Finding finding) const {
  std::vector<std::pair<std::string, int32_t>> spellings;
  for (size_t i = 0; i < vocabulary_.tokens.size(); ++i) {
    const TokenType type = vocabulary_.types[i];
    const auto token = static_cast<int32_t>(i);
    if (type == TokenType::kUserDefined) {
      const std::optional<std::string> normalized = MarksOf(vocabulary_, token).normalized;
      if (normalized.has_value() != (finding == Finding::kNormalized)) continue;
      spellings.emplace_back(normalized.value_or(vocabulary_.tokens[i]), token);
    } else if (finding == Finding::kSpecial &&
               (type == TokenType::kControl || type == TokenType::kMarker ||
                type == TokenType::kUnknown)) {
      spellings.emplace_back(vocabulary_.tokens[i], token);
    }
  }
  return SpellingIndex(std::move(spellings), kMaxSpellingBytes);
}

std::vector<int32_t> VocabularyTokenizer::EncodeSegments(std::span<const TextSegment> segments,
                                                         bool add_bos,
                                                         const std::atomic<bool>& cancelled) const {
  Encoding encoding{cancelled};
  if (add_bos) encoding.tokens = vocabulary_.prefix;
  std::string joined;
  std::vector<Stretch> stretches;
  size_t end = 0;
  for (const TextSegment& segment : segments) {
    const size_t begin = end;
    end += segment.text.size();
    stretches.push_back({begin, end, segment.parse_special ? &special_ : &plain_});
    if (segments.size() > 1) joined.append(segment.text);
  }
  Cut(segments.size() == 1 ? std::string_view(segments[0].text) : joined, stretches, encoding,
      [&](std::string_view text, bool at_start) { EncodeText(text, at_start, encoding); });
  return std::move(encoding.tokens);
}

void VocabularyTokenizer::Cut(
    std::string_view text, std::span<const Stretch> stretches, Encoding& encoding,
    absl::FunctionRef<void(std::string_view text, bool at_start)> visit_text) const {
  size_t done = 0;  // of the text; the rest is still to be visited
  const auto visit_until = [&](size_t end) {
    if (done < end && !encoding.Cancelled()) visit_text(text.substr(done, end - done), done == 0);
  };
  for (const Stretch& stretch : stretches) {
    size_t from = std::max(stretch.begin, done);
    while (!encoding.Cancelled()) {
      const SpellingIndex::Match match = stretch.special->Find(text.substr(0, stretch.end), from);
      if (match.length == 0) break;
      size_t begin = match.begin, end = match.begin + match.length;
      from = end;
      const AddedToken marks = MarksOf(vocabulary_, match.token);
      if (marks.single_word &&
          (EndsWithWord(text.substr(0, begin)) || BeginsWithWord(text.substr(end)))) {
        continue;
      }
      if (marks.strips_left) {
        begin = std::max(done, begin - TrailingWhitespace(text.substr(0, begin)));
      }
      if (marks.strips_right) end += LeadingWhitespace(text.substr(end));
      visit_until(begin);
      encoding.tokens.push_back(match.token);
      done = end;
      from = end;
    }
  }
  visit_until(text.size());
}

void VocabularyTokenizer::EncodeText(std::string_view text, bool at_start,
                                     Encoding& encoding) const {
  std::string normalized;
  if (!vocabulary_.normalizer.empty()) {
    normalized = vocabulary_.normalizer.Apply(text);
    text = normalized;
  }
  if (normalized_.empty()) return EncodeWords(text, at_start, encoding);
  const Stretch whole = {0, text.size(), &normalized_};
  Cut(text, {&whole, 1}, encoding,
      [&](std::string_view part, bool begins) { EncodeWords(part, at_start && begins, encoding); });
}

void VocabularyTokenizer::EncodeWords(std::string_view text, bool at_start,
                                      Encoding& encoding) const {
  vocabulary_.splits.ForEachWord(text, at_start, [&](std::string_view word) {
    encoder_->Encode(word, encoding.cancelled, encoding.memory, encoding.tokens);
    return !encoding.Cancelled();
  });
}

size_t VocabularyTokenizer::LeastTokens(std::span<const TextSegment> segments) const {
  const std::array<bool, 256>& spelled = encoder_->spelled();
  // What normalising composes may be spelled by other bytes than what it is composed of.
  size_t shrinkage = 1;
  if (!vocabulary_.normalizer.empty()) {
    const bool all = std::ranges::all_of(spelled, [](bool byte) { return byte; });
    shrinkage = all ? vocabulary_.normalizer.MaxShrinkage() : 0;
  }
  if (shrinkage == 0 || !vocabulary_.splits.KeepsText()) return 0;
  const auto counts = [&](char c) {
    const auto byte = static_cast<unsigned char>(c);
    // Of other bytes, some are whitespace's, which a token may take with it.
    return spelled[byte] && (!strips_whitespace_ || (byte > ' ' && byte < 128));
  };
  size_t bytes = 0;
  for (const TextSegment& segment : segments) {
    bytes += static_cast<size_t>(std::ranges::count_if(segment.text, counts));
  }
  return (bytes / shrinkage + max_token_bytes_ - 1) / max_token_bytes_;
}

std::string VocabularyTokenizer::TokenBytes(int32_t token, bool render_special) const {
  if (!render_special && IsControl(vocabulary_.types[token])) return "";
  return vocabulary_.bytes[token];
}

bool VocabularyTokenizer::IsEndOfGeneration(int32_t token) const {
  return std::ranges::binary_search(vocabulary_.end_of_generation, token);
}

}  // namespace winnow
