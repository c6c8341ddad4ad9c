// Words against those of Hugging Face tokenizers (tests/golden/README.md).

#include "engine/text/pretokenizer.h"

#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "engine/text/named_pretokenizer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/text/golden.h"
#include "tests/engine/text/utf8.h"

namespace winnow {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr const char* kNames[] = {"gpt-2", "smollm", "llama-bpe", "qwen2", "tekken", "gpt-4o"};

std::vector<std::string_view> SplitWords(const Pretokenizer& splits, std::string_view text) {
  std::vector<std::string_view> words;
  splits.ForEachWord(text, /*at_start=*/true, [&words](std::string_view word) {
    words.push_back(word);
    return true;
  });
  return words;
}

std::vector<std::string_view> SplitWords(const char* name, std::string_view text) {
  return SplitWords(FindPretokenizer(name)->splits, text);
}

class PretokenizerGoldenTest : public testing::TestWithParam<const char*> {};

TEST_P(PretokenizerGoldenTest, WordsAreThoseOfHuggingFaceTokenizers) {
  const nlohmann::json golden = LoadGolden("pretokenizer.json");
  const auto texts = golden["texts"].get<std::vector<std::string>>();
  const auto word_bytes = golden["word_bytes"][GetParam()].get<std::vector<std::vector<size_t>>>();
  ASSERT_EQ(texts.size(), word_bytes.size());
  for (size_t i = 0; i < texts.size(); ++i) {
    std::vector<std::string_view> expected;
    size_t begin = 0;
    for (const size_t length : word_bytes[i]) {
      expected.push_back(std::string_view(texts[i]).substr(begin, length));
      begin += length;
    }
    ASSERT_EQ(begin, texts[i].size());
    EXPECT_EQ(SplitWords(GetParam(), texts[i]), expected) << nlohmann::json(texts[i]);
  }
}

INSTANTIATE_TEST_SUITE_P(Patterns, PretokenizerGoldenTest,
                         testing::Values("gpt-2", "smollm", "llama-bpe", "qwen2"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::erase(name, '-');
                           return name;
                         });

TEST(PretokenizerTest, WordsTogetherAreTheTextWhateverItsBytes) {
  std::mt19937 rng(1);
  for (int i = 0; i < 5000; ++i) {
    const std::string text = i % 2 == 0 ? RandomText(rng, 30) : RandomBytes(rng, 30);
    for (const char* name : kNames) {
      std::string joined;
      for (const std::string_view word : SplitWords(name, text)) {
        EXPECT_FALSE(word.empty());
        joined += word;
      }
      ASSERT_EQ(joined, text);
    }
  }
}

TEST(PretokenizerTest, EmptyTextHasNoWords) {
  for (const char* name : kNames) EXPECT_THAT(SplitWords(name, ""), IsEmpty());
}

TEST(PretokenizerTest, BrokenUtf8CountsAsSymbols) {
  EXPECT_THAT(SplitWords("gpt-2", "a\xff\xfe!b"), ElementsAre("a", "\xff\xfe!", "b"));
  EXPECT_THAT(SplitWords("llama-bpe", "a \xe4\xb8 b\xc3"),
              ElementsAre("a", " \xe4\xb8", " b", "\xc3"));
}

TEST(PretokenizerTest, WordsOfAMegabyteTakeNoLongerThanTheirLength) {
  // Quadratic time would be minutes.
  for (const char* piece : {" ", "a", "7", "!", "\n", " \n", "'", "\xff"}) {
    std::string text;
    while (text.size() < 1 << 20) text += piece;
    for (const char* name : kNames) {
      EXPECT_FALSE(SplitWords(name, text).empty());
      EXPECT_FALSE(SplitWords(name, text + "x").empty());
    }
  }
}

TEST(PretokenizerTest, NamesThatFilesUseAreKnownAndOthersAreNot) {
  EXPECT_TRUE(FindPretokenizer("default").has_value());
  EXPECT_TRUE(FindPretokenizer("llama3")->ignores_merges);
  EXPECT_FALSE(FindPretokenizer("dbrx")->ignores_merges);
  EXPECT_TRUE(FindPretokenizer("tekken")->adds_bos);
  EXPECT_FALSE(FindPretokenizer("qwen2")->normalizer.empty());
  EXPECT_TRUE(FindPretokenizer("gpt-4o")->normalizer.empty());
  EXPECT_FALSE(FindPretokenizer("").has_value());
  EXPECT_FALSE(FindPretokenizer("qwen").has_value());
}

// The expressions, matched by ICU, against the scanners written by hand for them.
TEST(WordPatternTest, WordsAreTheMatchesOfTheExpression) {
  const char* const kExpressions[] = {
      R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)",
      R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
      R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
      R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
      R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)"};
  const std::vector<std::string> parts = {"a",      "bc",     "A",    "BC",     "\u01C5", "\u02B0",
                                          "\u6F22", "\u0301", " ",    "  ",     "\n",     "\r\n",
                                          "\t",     "/",      "!",    "'s",     "'RE",    "'\u017F",
                                          "1",      "23",     "4567", "\u00BD", "\u00A0", "'"};
  std::mt19937 rng(7);
  for (const char* expression : kExpressions) {
    const auto pattern = FindWordPattern(expression);
    ASSERT_TRUE(pattern.has_value()) << expression;
    Pretokenizer by_hand, by_icu;
    by_hand.Add(Pretokenizer::Words{*pattern});
    by_icu.Add(Pretokenizer::Split{Regex::Compile(expression).value()});
    for (int i = 0; i < 3000; ++i) {
      std::string text = i % 4 == 0 ? RandomText(rng, 20) : "";
      for (int n = static_cast<int>(rng() % 12); n > 0; --n) text += parts[rng() % parts.size()];
      ASSERT_EQ(SplitWords(by_hand, text), SplitWords(by_icu, text)) << nlohmann::json(text);
    }
  }
  EXPECT_FALSE(FindWordPattern("\\w+").has_value());
}

}  // namespace
}  // namespace winnow
