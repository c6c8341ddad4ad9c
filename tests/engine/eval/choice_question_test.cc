#include "engine/eval/choice_question.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace winnow {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(ChoiceCsvTest, ReadsRecordsAsMmluHasThem) {
  const auto questions = ParseChoiceCsv(
      "Which is a mammal?,trout,whale,gull,B\r\n"
      "\"Who said \"\"I came, I saw\"\"?\",Brutus,Caesar,\"Cicero,\nthe younger\",Nero,D\n"
      "\n"
      "2 + 2 =,3,4,A");
  ASSERT_TRUE(questions.ok()) << questions.status();
  ASSERT_EQ(questions->size(), 3u);
  EXPECT_EQ((*questions)[0].question, "Which is a mammal?");
  EXPECT_THAT((*questions)[0].choices, ElementsAre("trout", "whale", "gull"));
  EXPECT_EQ((*questions)[0].answer, 1);
  EXPECT_EQ((*questions)[1].question, "Who said \"I came, I saw\"?");
  EXPECT_THAT((*questions)[1].choices,
              ElementsAre("Brutus", "Caesar", "Cicero,\nthe younger", "Nero"));
  EXPECT_EQ((*questions)[1].answer, 3);
  EXPECT_THAT((*questions)[2].choices, ElementsAre("3", "4"));
  EXPECT_EQ((*questions)[2].answer, 0);
}

TEST(ChoiceCsvTest, NamesTheRecordAtFault) {
  const std::string good = "q,x,y,A\n";
  for (const char* bad :
       {"q,x,A", "q,x,y,C", "q,x,y,a", "q,x,y,AB", "q,x,y,", "q,,y,B", "q", ","}) {
    const auto questions = ParseChoiceCsv(good + bad + "\n");
    ASSERT_FALSE(questions.ok()) << bad;
    EXPECT_THAT(std::string(questions.status().message()), HasSubstr("record 2")) << bad;
  }
  for (const char* bad : {"\"q,x,y,A", "\"q\"x,x,y,A", "\""}) {
    EXPECT_FALSE(ParseChoiceCsv(good + bad).ok()) << bad;
  }
}

TEST(ChoiceJsonLinesTest, ReadsNumbersAndLetters) {
  const auto questions = ParseChoiceJsonLines(
      "{\"question\": \"q\", \"choices\": [\"x\", \"y\", \"z\"], \"answer\": 2}\n\n"
      "{\"question\": \"r\", \"choices\": [\"x\", \"y\"], \"answer\": \"B\", \"subject\": 1}\r\n");
  ASSERT_TRUE(questions.ok()) << questions.status();
  ASSERT_EQ(questions->size(), 2u);
  EXPECT_EQ((*questions)[0].answer, 2);
  EXPECT_THAT((*questions)[0].choices, ElementsAre("x", "y", "z"));
  EXPECT_EQ((*questions)[1].question, "r");
  EXPECT_EQ((*questions)[1].answer, 1);
}

TEST(ChoiceJsonLinesTest, NamesTheLineAtFault) {
  for (const char* bad :
       {"{", "[]", "{}", R"({"question": 1, "choices": ["x", "y"], "answer": 0})",
        R"({"question": "q", "choices": "xy", "answer": 0})",
        R"({"question": "q", "choices": ["x"], "answer": 0})",
        R"({"question": "q", "choices": ["x", 2], "answer": 0})",
        R"({"question": "q", "choices": ["x", ""], "answer": 0})",
        R"({"question": "q", "choices": ["x", "y"]})",
        R"({"question": "q", "choices": ["x", "y"], "answer": 2})",
        R"({"question": "q", "choices": ["x", "y"], "answer": -1})",
        R"({"question": "q", "choices": ["x", "y"], "answer": 0.5})",
        R"({"question": "q", "choices": ["x", "y"], "answer": "C"})",
        R"({"question": "q", "choices": ["x", "y"], "answer": 18446744073709551615})"}) {
    const auto questions = ParseChoiceJsonLines(std::string("\n") + bad);
    ASSERT_FALSE(questions.ok()) << bad;
    EXPECT_THAT(std::string(questions.status().message()), HasSubstr("line 2")) << bad;
  }
}

/// A token a byte, but for "of", which is one, and a first token for every text.
class ByteTokenizer : public Tokenizer {
 public:
  static constexpr int32_t kBos = 256;
  static constexpr int32_t kOf = 257;

  std::vector<int32_t> EncodeSegments(std::span<const TextSegment> segments, bool add_bos,
                                      const std::atomic<bool>&) const override {
    std::vector<int32_t> tokens;
    if (add_bos) tokens.push_back(kBos);
    const std::string& text = segments[0].text;
    for (size_t i = 0; i < text.size(); ++i) {
      const bool of = text.compare(i, 2, "of") == 0;
      tokens.push_back(of ? kOf : static_cast<unsigned char>(text[i]));
      if (of) ++i;
    }
    return tokens;
  }
  std::string TokenBytes(int32_t token, bool) const override {
    if (token == kBos) return "";
    return token == kOf ? "of" : std::string(1, static_cast<char>(token));
  }
  int32_t vocab_size() const override { return 258; }
  int32_t bos_token() const override { return kBos; }
  bool IsEndOfGeneration(int32_t) const override { return false; }
  bool StripsLeadingSpace() const override { return false; }

  std::string Text(const std::vector<int32_t>& tokens) const {
    std::string text;
    for (const int32_t token : tokens) text += TokenBytes(token, false);
    return text;
  }
};

TEST(EncodeChoiceTest, LettersFollowAPromptThatListsTheChoices) {
  const ByteTokenizer tokenizer;
  const std::vector<ChoiceQuestion> shots = {{"1 + 1 =", {"2", "3"}, 0},
                                             {"1 + 2 =", {"2", "3"}, 1}};
  const ChoiceCase encoded = EncodeChoice({"2 + 2 =", {"5", "four", "6"}, 1},
                                          {.preamble = "Questions.", .shots = shots}, tokenizer);
  EXPECT_EQ(encoded.prompt[0], ByteTokenizer::kBos);
  EXPECT_EQ(tokenizer.Text(encoded.prompt),
            "Questions.\n\n1 + 1 =\nA. 2\nB. 3\nAnswer: A\n\n1 + 2 =\nA. 2\nB. 3\nAnswer: B\n\n"
            "2 + 2 =\nA. 5\nB. four\nC. 6\nAnswer:");
  ASSERT_EQ(encoded.choices.size(), 3u);
  EXPECT_EQ(tokenizer.Text(encoded.choices[0]), " A");
  EXPECT_EQ(tokenizer.Text(encoded.choices[2]), " C");
  EXPECT_THAT(encoded.characters, ElementsAre(1, 1, 1));
  EXPECT_EQ(encoded.answer, 1);
}

TEST(EncodeChoiceTest, TextsFollowTheQuestion) {
  const ByteTokenizer tokenizer;
  const std::vector<ChoiceQuestion> shots = {{"1 + 1 =", {"2", "3"}, 0}};
  const ChoiceCase encoded =
      EncodeChoice({"2 + 2 =", {"vier", "fünf"}, 0}, {.letters = false, .shots = shots}, tokenizer);
  EXPECT_EQ(tokenizer.Text(encoded.prompt),
            "Question: 1 + 1 =\nAnswer: 2\n\nQuestion: 2 + 2 =\nAnswer:");
  EXPECT_EQ(tokenizer.Text(encoded.choices[0]), " vier");
  EXPECT_EQ(tokenizer.Text(encoded.choices[1]), " fünf");
  EXPECT_THAT(encoded.characters, ElementsAre(4, 4));
}

/// Joins the first space behind a colon to it.
class JoiningTokenizer : public ByteTokenizer {
 public:
  std::vector<int32_t> EncodeSegments(std::span<const TextSegment> segments, bool add_bos,
                                      const std::atomic<bool>& cancelled) const override {
    std::vector<int32_t> tokens = ByteTokenizer::EncodeSegments(segments, add_bos, cancelled);
    for (size_t i = 0; i + 1 < tokens.size(); ++i) {
      if (tokens[i] != ':' || tokens[i + 1] != ' ') continue;
      tokens[i] = 1;
      tokens.erase(tokens.begin() + static_cast<std::ptrdiff_t>(i) + 1);
    }
    return tokens;
  }
};

TEST(EncodeChoiceTest, PromptAndChoiceAreTheTokensOfTheWholeText) {
  const JoiningTokenizer tokenizer;
  for (const bool letters : {false, true}) {
    const ChoiceQuestion question = {"q", {"x", "xy"}, 0};
    const ChoiceCase encoded = EncodeChoice(question, {.letters = letters}, tokenizer);
    for (size_t i = 0; i < 2; ++i) {
      std::vector<int32_t> whole = encoded.prompt;
      whole.insert(whole.end(), encoded.choices[i].begin(), encoded.choices[i].end());
      const std::string text = letters ? std::string("q\nA. x\nB. xy\nAnswer: ") + "AB"[i]
                                       : "Question: q\nAnswer: " + question.choices[i];
      EXPECT_EQ(whole, tokenizer.Encode(text, false, true));
    }
    // "Answer:" ends in another token where a choice follows.
    EXPECT_EQ(encoded.choices[0][0], 1);
  }
}

}  // namespace
}  // namespace winnow
