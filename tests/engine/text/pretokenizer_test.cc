// Words against those of Hugging Face tokenizers (tests/golden/README.md).

#include "engine/text/pretokenizer.h"

#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/text/golden.h"
#include "tests/engine/text/utf8.h"

namespace winnow {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr WordPattern kPatterns[] = {WordPattern::kGpt2, WordPattern::kSmolLm, WordPattern::kLlama3,
                                     WordPattern::kQwen2};

std::vector<std::string_view> SplitWords(WordPattern pattern, std::string_view text) {
  std::vector<std::string_view> words;
  ForEachWord(pattern, text, [&words](std::string_view word) {
    words.push_back(word);
    return true;
  });
  return words;
}

class PretokenizerGoldenTest : public testing::TestWithParam<const char*> {};

TEST_P(PretokenizerGoldenTest, WordsAreThoseOfHuggingFaceTokenizers) {
  const nlohmann::json golden = LoadGolden("pretokenizer.json");
  const auto pretokenizer = FindPretokenizer(GetParam());
  ASSERT_TRUE(pretokenizer.has_value());
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
    EXPECT_EQ(SplitWords(pretokenizer->pattern, texts[i]), expected) << nlohmann::json(texts[i]);
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
    for (const WordPattern pattern : kPatterns) {
      std::string joined;
      for (const std::string_view word : SplitWords(pattern, text)) {
        EXPECT_FALSE(word.empty());
        joined += word;
      }
      ASSERT_EQ(joined, text);
    }
  }
}

TEST(PretokenizerTest, EmptyTextHasNoWords) {
  for (const WordPattern pattern : kPatterns) EXPECT_THAT(SplitWords(pattern, ""), IsEmpty());
}

TEST(PretokenizerTest, BrokenUtf8CountsAsSymbols) {
  EXPECT_THAT(SplitWords(WordPattern::kGpt2, "a\xff\xfe!b"), ElementsAre("a", "\xff\xfe!", "b"));
  EXPECT_THAT(SplitWords(WordPattern::kLlama3, "a \xe4\xb8 b\xc3"),
              ElementsAre("a", " \xe4\xb8", " b", "\xc3"));
}

TEST(PretokenizerTest, WordsOfAMegabyteTakeNoLongerThanTheirLength) {
  // Quadratic time would be minutes.
  for (const char* piece : {" ", "a", "7", "!", "\n", " \n", "'", "\xff"}) {
    std::string text;
    while (text.size() < 1 << 20) text += piece;
    for (const WordPattern pattern : kPatterns) {
      EXPECT_FALSE(SplitWords(pattern, text).empty());
      EXPECT_FALSE(SplitWords(pattern, text + "x").empty());
    }
  }
}

TEST(PretokenizerTest, NamesThatFilesUseAreKnownAndOthersAreNot) {
  EXPECT_EQ(FindPretokenizer("default")->pattern, WordPattern::kGpt2);
  EXPECT_EQ(FindPretokenizer("llama3")->pattern, WordPattern::kLlama3);
  EXPECT_TRUE(FindPretokenizer("llama-bpe")->ignores_merges);
  EXPECT_TRUE(FindPretokenizer("qwen2")->normalizes_nfc);
  EXPECT_EQ(FindPretokenizer(""), std::nullopt);
  EXPECT_EQ(FindPretokenizer("qwen"), std::nullopt);
}

}  // namespace
}  // namespace winnow
