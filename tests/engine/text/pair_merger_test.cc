// Merging pairs window by window against the definition: always the best two neighbours of the
// whole text. And what it costs, counted.

#include "engine/text/pair_merger.h"

#include <algorithm>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tests/engine/model/largest_allocation.h"
#include "tests/engine/text/vocabulary_file.h"

namespace winnow {
namespace {

/// What two tokens become.
using Merges = std::map<std::pair<int32_t, int32_t>, PairMerge>;

/// A text whose characters are tokens, with counts of what merging it takes.
class CountingRules {
 public:
  /// REQUIRES: text and merges outlive this object.
  CountingRules(std::string_view text, const Merges& merges) : text_(text), merges_(merges) {}

  bool Next(size_t& position, Piece& piece) {
    if (position == text_.size()) return false;
    piece = {position, position + 1, text_[position]};
    ++position;
    most_held_ = std::max(most_held_, position - (pieces_.empty() ? 0 : pieces_.back().end));
    return true;
  }
  std::optional<PairMerge> Join(const Piece& left, const Piece& right) {
    ++joins_;
    const auto found = merges_.find({left.token, right.token});
    return found == merges_.end() ? std::nullopt : std::optional(found->second);
  }
  void Accept(const Piece& piece) { pieces_.push_back(piece); }
  void Restart() {
    pieces_.clear();
    ++restarts_;
  }
  bool Cancelled() { return ++windows_ > most_windows; }

  const std::vector<Piece>& pieces() const { return pieces_; }
  size_t joins() const { return joins_; }
  size_t restarts() const { return restarts_; }
  size_t most_held() const { return most_held_; }

  size_t most_windows = SIZE_MAX;

 private:
  const std::string_view text_;
  const Merges& merges_;
  std::vector<Piece> pieces_;
  size_t joins_ = 0;
  size_t restarts_ = 0;
  size_t windows_ = 0;
  size_t most_held_ = 0;  ///< most of the text that was split and not accepted yet
};

std::vector<Piece> MergeByDefinition(std::string_view text, const Merges& merges) {
  std::vector<Piece> pieces;
  for (size_t i = 0; i < text.size(); ++i) pieces.push_back({i, i + 1, text[i]});
  while (true) {
    const PairMerge* best = nullptr;
    size_t place = 0;
    for (size_t i = 0; i + 1 < pieces.size(); ++i) {
      const auto found = merges.find({pieces[i].token, pieces[i + 1].token});
      if (found == merges.end() || (best != nullptr && best->rank <= found->second.rank)) continue;
      best = &found->second;
      place = i;
    }
    if (best == nullptr) return pieces;
    pieces[place] = {pieces[place].begin, pieces[place + 1].end, best->token};
    pieces.erase(pieces.begin() + static_cast<int64_t>(place) + 1);
  }
}

TEST(PairMergerTest, WindowsOfAnySizeGiveWhatTheDefinitionGives) {
  std::mt19937 rng(1);
  size_t merged = 0, restarts = 0;
  for (int round = 0; round < 3000; ++round) {
    // Vocabularies that were never trained: merges of any tokens, in any order, some alike.
    const int letters = 1 + static_cast<int>(rng() % 3);
    const auto tokens = static_cast<int32_t>(letters + rng() % 12);
    Merges merges;
    for (int n = static_cast<int>(rng() % 12); n > 0; --n) {
      const auto any = [&] { return 'a' + static_cast<int32_t>(rng() % tokens); };
      const std::pair pair(any(), any());
      merges[pair] = {static_cast<double>(rng() % 8), any()};
    }
    std::string text(rng() % 120, ' ');
    for (char& c : text) c = static_cast<char>('a' + rng() % letters);
    const std::vector<Piece> expected = MergeByDefinition(text, merges);
    merged += text.size() - expected.size();
    for (const size_t window : {1, 2, 3, 4, 7, 16, 50, 1000}) {
      CountingRules rules(text, merges);
      PairMerger(window).Merge(rules);
      ASSERT_EQ(rules.pieces(), expected) << text << ", window " << window;
      restarts += rules.restarts();
    }
  }
  EXPECT_GT(merged, 10000u);
  EXPECT_GT(restarts, 1000u);
}

/// Merges of runs: "aa", "aaaa" and so on to 64 letters, and pairs of other letters.
Merges RunMerges() {
  Merges merges;
  double rank = 0;
  for (const int32_t letter : {' ', '.', 'x'}) {
    int32_t token = letter;
    for (int32_t length = 2; length <= 64; length *= 2) {
      merges[{token, token}] = {rank++, letter * 1000 + length};
      token = letter * 1000 + length;
    }
  }
  for (int32_t letter = 'a'; letter < 'q'; ++letter) {
    merges[{letter, letter + 1}] = {rank++, letter * 1000};
    merges[{letter * 1000, letter + 2}] = {rank++, letter * 1000 + 1};
  }
  return merges;
}

TEST(PairMergerTest, WorkGrowsWithTheTextAndWhatIsHeldDoesNot) {
  const Merges merges = RunMerges();
  std::mt19937 rng(2);
  constexpr size_t kBytes = 1 << 20;
  std::string word(kBytes, ' ');
  for (char& c : word) c = static_cast<char>('a' + rng() % 20);
  for (const std::string& text :
       {std::string(kBytes, ' '), std::string(kBytes, '.'), std::string(kBytes, '\xff'), word}) {
    for (const size_t bytes : {kBytes / 8, kBytes}) {
      CountingRules rules(std::string_view(text).substr(0, bytes), merges);
      PairMerger().Merge(rules);
      ASSERT_EQ(rules.pieces().back().end, bytes);
      // Two for each merge, one for each place between pieces, and the ends of windows again.
      EXPECT_LE(rules.joins(), bytes * 7 / 2) << text.substr(0, 4);
      EXPECT_LE(rules.most_held(), PairMerger::kWindowPieces + 64);
      EXPECT_EQ(rules.restarts(), 0u);
    }
  }
}

TEST(PairMergerTest, WhatReachesBackFurtherThanAWindowIsFoundWithLargerOnes) {
  // A "z" takes all the letters before it, one by one, before any two of these merge.
  const Merges merges = {{{'a', 'z'}, {0, 'z'}}, {{'a', 'a'}, {1, 'b'}}};
  const std::string text = std::string(20000, 'a') + "z";
  CountingRules rules(text, merges);
  PairMerger().Merge(rules);
  EXPECT_EQ(rules.pieces(), (std::vector<Piece>{{0, text.size(), 'z'}}));
  EXPECT_EQ(rules.restarts(), 1u);  // to windows that hold all of it
}

TEST(PairMergerTest, IsAskedOnceAWindowWhetherToGoOn) {
  const Merges merges = RunMerges();
  const std::string text(1 << 20, '.');
  CountingRules rules(text, merges);
  rules.most_windows = 3;
  PairMerger().Merge(rules);
  EXPECT_LE(rules.pieces().back().end, 3 * PairMerger::kWindowPieces);
}

TEST(TokenizerMemoryTest, NoAllocationIsMuchLargerThanTheText) {
  VocabularyFile bpe = ByteLevelVocabulary();
  for (const char* token : {"ab", "..", "ĠĠ", "ĠĠĠĠ", "ÿÿ"}) bpe.Add(token);
  bpe.scores.clear();
  bpe.merges = {"a b", ". .", "Ġ Ġ", "ĠĠ ĠĠ", "ÿ ÿ"};
  VocabularyFile pieces = SentencePieceVocabulary();
  for (const char* token : {"a", "b", "ab", ".", "..", "▁", "▁▁", "▁▁▁▁"}) pieces.Add(token);
  std::vector<VocabularyFile> files = {pieces};
  for (const char* pre : {"gpt-2", "smollm", "llama-bpe", "qwen2"}) {
    files.push_back(bpe);
    files.back().pre = pre;
  }

  constexpr size_t kBytes = 1 << 18;
  std::mt19937 rng(3);
  std::string base64(kBytes, ' '), word = base64, invalid = base64, lines = base64;
  for (char& c : base64) {
    c = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"[rng() % 64];
  }
  for (char& c : word) c = static_cast<char>('a' + rng() % 26);
  for (char& c : invalid) c = static_cast<char>(0x80 + rng() % 128);
  for (char& c : lines) c = " \n"[rng() % 2];
  for (const VocabularyFile& file : files) {
    const auto tokenizer = file.Load();
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    for (const std::string& text :
         {std::string(kBytes, ' '), std::string(kBytes, '.'), base64, word, invalid, lines}) {
      largest_allocation = 0;
      const size_t tokens = (*tokenizer)->Encode(text, /*parse_special=*/true, false).size();
      EXPECT_GE(tokens, kBytes / 4);
      // Its tokens, up to one of four bytes for each byte, with room to grow.
      EXPECT_LE(largest_allocation, 8 * kBytes)
          << file.pre << ", text beginning with byte " << static_cast<int>(text[0]);
    }
  }
}

}  // namespace
}  // namespace winnow
