#include "engine/sequence/sequence.h"

#include <gtest/gtest.h>

#include <string>
#include <string_view>
#include <vector>

namespace winnow {
namespace {

/// A token is one byte, as in the byte fallback of real vocabularies; 0 ends a generation.
class ByteTokenizer : public Tokenizer {
 public:
  std::vector<int32_t> EncodeSegments(std::span<const TextSegment> segments, bool,
                                      const std::atomic<bool>&) const override {
    std::vector<int32_t> tokens;
    for (const TextSegment& segment : segments) {
      for (const char c : segment.text) tokens.push_back(static_cast<unsigned char>(c));
    }
    return tokens;
  }
  std::string TokenBytes(int32_t token, bool render_special) const override {
    if (token == 0) return render_special ? "<end>" : "";
    return std::string(1, static_cast<char>(token));
  }
  int32_t vocab_size() const override { return 256; }
  int32_t bos_token() const override { return -1; }
  bool IsEndOfGeneration(int32_t token) const override { return token == 0; }
  bool StripsLeadingSpace() const override { return false; }
};

/// Feeds the bytes of `text` to a sequence and returns each output.
std::vector<Output> Generate(const Request& request, std::string_view text, int max_length = 1000) {
  const ByteTokenizer tokenizer;
  Sequence sequence(request, tokenizer, 0, 0, 0, max_length, RecallOptions{});
  std::vector<Output> outputs;
  for (const char c : text) {
    outputs.push_back(
        sequence.Append({static_cast<int32_t>(static_cast<unsigned char>(c)), std::nullopt, {}}));
    if (outputs.back().finish_reason) break;
  }
  return outputs;
}

Request Prompt() {
  Request request;
  request.prompt_tokens = {'p'};
  return request;
}

std::string Text(const std::vector<Output>& outputs) {
  std::string text;
  for (const Output& output : outputs) text += output.text;
  return text;
}

TEST(SequenceTest, CharactersComeWhole) {
  const std::vector<Output> outputs = Generate(Prompt(), "a\u00e9\u20ac\U0001f600");
  std::vector<std::string> pieces;
  for (const Output& output : outputs) pieces.push_back(output.text);
  EXPECT_EQ(pieces, (std::vector<std::string>{"a", "", "\u00e9", "", "", "\u20ac", "", "", "",
                                              "\U0001f600"}));
}

TEST(SequenceTest, CharacterCutByTheLengthLimitIsReplaced) {
  const std::vector<Output> outputs = Generate(Prompt(), "a\u20ac", 1 + 3);
  EXPECT_EQ(Text(outputs), "a\ufffd");
  EXPECT_EQ(outputs.back().finish_reason, FinishReason::kLength);
}

TEST(SequenceTest, StopStringMayBeginAndEndInsideTokensOfACharacter) {
  Request request = Prompt();
  request.stop = {"\u20ac!"};
  const std::vector<Output> outputs = Generate(request, "x\u20ac?\u20ac!y");
  EXPECT_EQ(Text(outputs), "x\u20ac?");
  EXPECT_EQ(outputs.back().finish_reason, FinishReason::kStop);
  EXPECT_EQ(outputs.back().matched_stop, "\u20ac!");
}

TEST(SequenceTest, StopTokenThatIsNoCharacterIsNamedByValidText) {
  Request request = Prompt();
  request.stop_token_ids = {0xe2};
  const std::vector<Output> outputs = Generate(request, "x\u20ac");
  EXPECT_EQ(Text(outputs), "x");
  EXPECT_EQ(outputs.back().matched_stop, "\ufffd");
}

TEST(SequenceTest, StopTokenWinsOverEndOfSequenceAndIsNamed) {
  Request request = Prompt();
  request.stop_token_ids = {0};
  const std::vector<Output> outputs = Generate(request, std::string_view("x\0", 2));
  EXPECT_EQ(outputs.back().finish_reason, FinishReason::kStop);
  EXPECT_EQ(outputs.back().matched_stop, "<end>");
  EXPECT_EQ(Text(outputs), "x");
}

TEST(SequenceTest, StopStringWithTheLastAllowedTokenIsAStop) {
  Request request = Prompt();
  request.stop = {"bc"};
  const std::vector<Output> outputs = Generate(request, "abc", 1 + 3);
  EXPECT_EQ(outputs.back().finish_reason, FinishReason::kStop);
  EXPECT_EQ(Text(outputs), "a");
}

TEST(SequenceTest, AbortGivesTheTextHeldBack) {
  Request request = Prompt();
  request.stop = {"abc"};
  const ByteTokenizer tokenizer;
  Sequence sequence(request, tokenizer, 0, 0, 0, 100, RecallOptions{});
  EXPECT_EQ(sequence.Append({'a', std::nullopt, {}}).text, "");
  const Output last = sequence.Abort();
  EXPECT_EQ(last.text, "a");
  EXPECT_EQ(last.finish_reason, FinishReason::kCancelled);
}

TEST(SequenceTest, AgeIsArrivalThenIndex) {
  const ByteTokenizer tokenizer;
  const Request request = Prompt();
  const Sequence a(request, tokenizer, 1, 1, 0, 100, RecallOptions{});
  const Sequence b(request, tokenizer, 2, 0, 0, 100, RecallOptions{});
  const Sequence c(request, tokenizer, 2, 1, 0, 100, RecallOptions{});
  EXPECT_TRUE(a.Before(b));
  EXPECT_TRUE(b.Before(c));
  EXPECT_FALSE(c.Before(a));
  EXPECT_FALSE(a.Before(a));
}

}  // namespace
}  // namespace winnow
