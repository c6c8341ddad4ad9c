#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "engine/text/tokenizer.h"
#include "gtest/gtest.h"
#include "tests/engine/text/utf8.h"
#include "tests/engine/text/vocabulary_file.h"

namespace winnow {
namespace {

/// Tokens that stand for the given bytes; control tokens show only when they are to be rendered.
class ListedTokens final : public Tokenizer {
 public:
  explicit ListedTokens(std::vector<std::string> tokens, bool strips_leading_space = false)
      : tokens_(std::move(tokens)), strips_leading_space_(strips_leading_space) {}

  std::vector<int32_t> EncodeSegments(std::span<const TextSegment>, bool,
                                      const std::atomic<bool>&) const override {
    return {};
  }
  std::string TokenBytes(int32_t token, bool render_special) const override {
    const std::string& bytes = tokens_[static_cast<size_t>(token)];
    return bytes.starts_with("<") && !render_special ? "" : bytes;
  }
  int32_t vocab_size() const override { return static_cast<int32_t>(tokens_.size()); }
  int32_t bos_token() const override { return -1; }
  bool IsEndOfGeneration(int32_t) const override { return false; }
  bool StripsLeadingSpace() const override { return strips_leading_space_; }

 private:
  std::vector<std::string> tokens_;
  bool strips_leading_space_;
};

/// What each token of 0, 1, 2, ... adds, and what is left at the end.
std::vector<std::string> Stream(const std::vector<std::string>& tokens) {
  const ListedTokens tokenizer(tokens);
  Detokenizer detokenizer(tokenizer, /*render_special=*/true, /*at_text_start=*/false);
  std::vector<std::string> texts;
  for (int32_t i = 0; i < tokenizer.vocab_size(); ++i) texts.push_back(detokenizer.Append(i));
  texts.push_back(detokenizer.Flush());
  return texts;
}

using Texts = std::vector<std::string>;

TEST(DetokenizerTest, HoldsACharacterBackUntilItsLastByte) {
  EXPECT_EQ(Stream({"a\xf0\x9f", "\x99", "\x82!"}), (Texts{"a", "", "🙂!", ""}));
  EXPECT_EQ(Stream({"\xc3", "\xa9\xc3", "\xa9"}), (Texts{"", "é", "é", ""}));
}

TEST(DetokenizerTest, WhatNeverBecomesACharacterIsReplacedAsSoonAsThatIsCertain) {
  EXPECT_EQ(Stream({"\xff", "\x80", "a"}), (Texts{"\uFFFD", "\uFFFD", "a", ""}));
  EXPECT_EQ(Stream({"\xe4\xb8", "a"}), (Texts{"", "\uFFFDa", ""}));
  EXPECT_EQ(Stream({"\xf0\x9f", "\xc3", "\xa9"}), (Texts{"", "\uFFFD", "é", ""}));
  // A surrogate, an overlong form and a number above U+10FFFF break at their second byte.
  EXPECT_EQ(Stream({"\xed", "\xa0"}), (Texts{"", "\uFFFD\uFFFD", ""}));
  EXPECT_EQ(Stream({"\xe0", "\x80"}), (Texts{"", "\uFFFD\uFFFD", ""}));
  EXPECT_EQ(Stream({"\xf4", "\x90"}), (Texts{"", "\uFFFD\uFFFD", ""}));
  EXPECT_EQ(Stream({"\xc0", "\xaf", "\xf5"}), (Texts{"\uFFFD", "\uFFFD", "\uFFFD", ""}));
}

TEST(DetokenizerTest, FlushReplacesAnIncompleteCharacterAndEmptiesTheDetokenizer) {
  const ListedTokens tokenizer({"a\xf0\x9f\x99", "\x82"});
  Detokenizer detokenizer(tokenizer, false, false);
  EXPECT_EQ(detokenizer.Append(0), "a");
  EXPECT_EQ(detokenizer.Flush(), kReplacement);
  EXPECT_EQ(detokenizer.Flush(), "");
  EXPECT_EQ(detokenizer.Append(1), kReplacement);
}

TEST(DetokenizerTest, EveryStepIsValidUtf8AndAllOfThemAreTheWholeDecode) {
  std::mt19937 rng(7);
  for (int i = 0; i < 20000; ++i) {
    std::string bytes = rng() % 2 == 0 ? RandomText(rng, 12) : RandomBytes(rng, 16);
    if (rng() % 4 == 0 && !bytes.empty()) bytes.erase(rng() % bytes.size(), 1);
    std::vector<std::string> tokens;
    for (size_t begin = 0; begin < bytes.size();) {
      const size_t length = rng() % 3 == 0 ? rng() % 6 : 1;
      tokens.push_back(bytes.substr(begin, length));
      begin += tokens.back().size();
    }
    std::string joined;
    for (const std::string& text : Stream(tokens)) {
      ASSERT_TRUE(IsValidUtf8(text));
      joined += text;
    }
    ASSERT_EQ(joined, RepairUtf8(bytes));
  }
}

TEST(DetokenizerTest, RandomTokensOfRealTokenizersStreamAsValidUtf8) {
  VocabularyFile byte_level = ByteLevelVocabulary();
  byte_level.Add("Ġh");
  byte_level.Add("ðŁĻĤ");  // the bytes of an emoji
  byte_level.Add("ðŁĻ");   // all but the last of them
  byte_level.Add("Ļ" + SpellByte('!'));
  byte_level.Add("<|end|>", VocabularyFile::kControl);
  byte_level.scores.clear();
  byte_level.merges = {"Ġ h"};
  VocabularyFile sentencepiece = SentencePieceVocabulary();
  for (const char* piece : {"▁", "▁▁", "▁hello", "é", "日本"}) sentencepiece.Add(piece);
  std::mt19937 rng(11);
  for (const VocabularyFile& file : {byte_level, sentencepiece}) {
    const auto tokenizer = file.Load();
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    const auto vocab_size = static_cast<uint32_t>((*tokenizer)->vocab_size());
    for (int i = 0; i < 3000; ++i) {
      Detokenizer detokenizer(**tokenizer, /*render_special=*/false, /*at_text_start=*/true);
      std::string bytes, joined;
      for (uint32_t n = rng() % 24; n > 0; --n) {
        // The last five are no bytes, and rare if all are drawn alike.
        const uint32_t token = rng() % 3 == 0 ? vocab_size - 1 - rng() % 5 : rng() % vocab_size;
        bytes += (*tokenizer)->TokenBytes(static_cast<int32_t>(token), false);
        const std::string text = detokenizer.Append(static_cast<int32_t>(token));
        ASSERT_TRUE(IsValidUtf8(text));
        joined += text;
      }
      joined += detokenizer.Flush();
      if ((*tokenizer)->StripsLeadingSpace() && bytes.starts_with(" ")) bytes.erase(0, 1);
      ASSERT_EQ(joined, RepairUtf8(bytes));
    }
  }
}

TEST(DetokenizerTest, NoMoreThanAnUnfinishedCharacterIsHeldBack) {
  std::mt19937 rng(8);
  for (int i = 0; i < 5000; ++i) {
    const std::string bytes = RandomBytes(rng, 16);
    std::vector<std::string> tokens;
    for (const char byte : bytes) tokens.emplace_back(1, byte);
    const Texts texts = Stream(tokens);
    std::string joined;
    for (size_t n = 0; n < tokens.size(); ++n) {
      joined += texts[n];
      const std::string_view so_far = std::string_view(bytes).substr(0, n + 1);
      // What is held back shows as one U+FFFD at the end of the whole decode so far.
      const std::string whole = RepairUtf8(so_far);
      ASSERT_TRUE(joined == whole || joined + std::string(kReplacement) == whole);
    }
  }
}

TEST(DetokenizerTest, TheLeadingSpaceIsDroppedOnceAtTheStartOfATextOnly) {
  const ListedTokens tokenizer({" a", " ", "<s>", "b"}, /*strips_leading_space=*/true);
  const auto decode = [&](const std::vector<int32_t>& tokens, bool render, bool at_text_start) {
    Detokenizer detokenizer(tokenizer, render, at_text_start);
    std::string text;
    for (const int32_t token : tokens) text += detokenizer.Append(token);
    return text;
  };
  EXPECT_EQ(decode({0, 0}, false, true), "a a");
  EXPECT_EQ(decode({1, 0}, false, true), " a");
  EXPECT_EQ(decode({3, 0}, false, true), "b a");
  EXPECT_EQ(decode({0, 0}, false, false), " a a");
  EXPECT_EQ(decode({2, 0}, false, true), "a");  // a token without text does not start it
  const ListedTokens other({" a"});
  Detokenizer detokenizer(other, false, /*at_text_start=*/true);
  EXPECT_EQ(detokenizer.Append(0), " a");
}

TEST(DetokenizerTest, ControlTokensShowOnRequestOnly) {
  const ListedTokens tokenizer({"a", "<end>"});
  for (const bool render : {false, true}) {
    Detokenizer detokenizer(tokenizer, render, false);
    EXPECT_EQ(detokenizer.Append(0), "a");
    EXPECT_EQ(detokenizer.Append(1), render ? "<end>" : "");
  }
}

}  // namespace
}  // namespace winnow
