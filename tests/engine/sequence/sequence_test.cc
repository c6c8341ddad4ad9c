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

/// What the sequence makes of these choices.
Output Accept(Sequence& sequence, std::string_view choices) {
  std::vector<int32_t> tokens;
  for (const char c : choices) tokens.push_back(static_cast<unsigned char>(c));
  return *sequence.Accept(tokens, {});
}

/// Feeds the bytes of `text` to a sequence and returns each output.
std::vector<Output> Generate(const Request& request, std::string_view text, int max_length = 1000) {
  const ByteTokenizer tokenizer;
  Sequence sequence(request, tokenizer, 0, 0, 0, max_length, RecallOptions{});
  std::vector<Output> outputs;
  for (const char c : text) {
    outputs.push_back(Accept(sequence, std::string(1, c)));
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
  EXPECT_EQ(Accept(sequence, "a").text, "");
  const Output last = sequence.Abort();
  EXPECT_EQ(last.text, "a");
  EXPECT_EQ(last.finish_reason, FinishReason::kCancelled);
}

/// A sequence that has computed its prompt "p" and the token "a", and expects the drafts.
class Drafting {
 public:
  explicit Drafting(std::string_view drafts, const Request& request = Prompt(),
                    int max_length = 100)
      : request_(request), sequence(request_, tokenizer_, 0, 0, 0, max_length, RecallOptions{}) {
    sequence.SetPast();
    sequence.set_computed(1);
    Accept(sequence, "a");
    const std::vector<int32_t> tokens(drafts.begin(), drafts.end());
    sequence.SetDrafts(tokens);
  }

 private:
  const Request request_;
  const ByteTokenizer tokenizer_;

 public:
  Sequence sequence;
};

std::string Letters(std::span<const int32_t> tokens) { return {tokens.begin(), tokens.end()}; }

TEST(SequenceTest, SpanOfADecodingSequenceHoldsTheLastTokenAndDraftsThatAllHaveATokenChosen) {
  Drafting drafting("bcd");
  const Span span = drafting.sequence.NextSpan(3);
  EXPECT_EQ(span.begin, 1);
  EXPECT_EQ(Letters(span.tokens), "abc");
  EXPECT_EQ(span.logit_rows(), 3);
  EXPECT_TRUE(span.decode);
}

TEST(SequenceTest, PieceOfAPastHasATokenChosenOnlyWhereItEnds) {
  Request request = Prompt();
  request.prompt_tokens = {'a', 'b', 'c', 'd'};
  const ByteTokenizer tokenizer;
  Sequence sequence(request, tokenizer, 0, 0, 0, 100, RecallOptions{});
  sequence.SetPast();
  EXPECT_EQ(sequence.NextSpan(3).logit_rows(), 0);
  sequence.set_computed(2);
  EXPECT_EQ(Letters(sequence.NextSpan(2).tokens), "cd");
  EXPECT_EQ(sequence.NextSpan(2).logit_rows(), 1);
  EXPECT_FALSE(sequence.NextSpan(2).decode);
}

TEST(SequenceTest, SpanEndsWhereRowsBeginToSelectDifferently) {
  Request request = Prompt();
  request.prompt_tokens = {'a', 'b', 'c', 'd'};
  request.attention = {.kind = SelectionKind::kLabels, .sparsity = 4};
  const ByteTokenizer tokenizer;
  Sequence sequence(request, tokenizer, 0, 0, 0, 100, RecallOptions{});
  for (const char* token : {"e", "f", "g"}) Accept(sequence, token);
  sequence.SetPast();  // as after preemption
  const Span prompt = sequence.NextSpan(sequence.pending());
  EXPECT_EQ(Letters(prompt.tokens), "abcd");
  EXPECT_EQ(prompt.selection, Selection{});
  sequence.set_computed(4);
  const Span generated = sequence.NextSpan(sequence.pending());
  EXPECT_EQ(Letters(generated.tokens), "efg");
  EXPECT_EQ(generated.selection.kind, SelectionKind::kLabels);
  EXPECT_EQ(generated.logit_rows(), 1);
}

TEST(SequenceTest, DraftsThatAreChosenStayUpToTheFirstThatIsNot) {
  Drafting drafting("bcd");
  const Output output = Accept(drafting.sequence, "bcxy");
  EXPECT_EQ(output.text, "bcx");
  EXPECT_EQ(output.tokens.size(), 3u);
  EXPECT_EQ(Letters(drafting.sequence.tokens()), "pabcx");
  EXPECT_EQ(drafting.sequence.computed(), 1 + 2) << "the drafts' rows";
  EXPECT_TRUE(drafting.sequence.drafts().empty());
}

TEST(SequenceTest, FirstChoiceStaysWhateverWasGuessed) {
  Drafting drafting("bcd");
  EXPECT_EQ(Accept(drafting.sequence, "xbcd").text, "x");
  EXPECT_EQ(Letters(drafting.sequence.tokens()), "pax");
}

TEST(SequenceTest, AllDraftsAndTheTokenAfterThemMayStay) {
  Drafting drafting("bcd");
  EXPECT_EQ(Accept(drafting.sequence, "bcde").text, "bcde");
}

TEST(SequenceTest, OnlyDraftsThatWereComputedCount) {
  Drafting drafting("bcd");
  EXPECT_EQ(Accept(drafting.sequence, "bc").text, "bc");
  EXPECT_EQ(Letters(drafting.sequence.tokens()), "pabc");
}

TEST(SequenceTest, NothingStaysAfterAnEndAmongTheDrafts) {
  Request request = Prompt();
  request.stop = {"c"};
  Drafting drafting("bcd", request);
  const Output output = Accept(drafting.sequence, "bcde");
  EXPECT_EQ(output.text, "b");
  EXPECT_EQ(output.tokens.size(), 2u);
  EXPECT_EQ(output.finish_reason, FinishReason::kStop);
}

TEST(SequenceTest, NoMoreIsGuessedThanTheSequenceMayUse) {
  // Of 5 tokens 2 are there: two drafts and the token after them.
  Drafting drafting("bcd", Prompt(), 5);
  EXPECT_EQ(Letters(drafting.sequence.drafts()), "bc");
  const Output output = Accept(drafting.sequence, "bcd");
  EXPECT_EQ(output.text, "bcd");
  EXPECT_EQ(output.finish_reason, FinishReason::kLength);
}

TEST(SequenceTest, ChoiceThatCameToNothingIsAnErrorOnlyWhereItCounts) {
  Drafting guessed("b");
  const int32_t after_a_wrong_draft[] = {'x', kLogitsNotFinite};
  EXPECT_TRUE(guessed.sequence.Accept(after_a_wrong_draft, {}).ok());
  Drafting right("b");
  const int32_t after_a_right_draft[] = {'b', kLogitsNotFinite};
  EXPECT_TRUE(absl::IsInternal(right.sequence.Accept(after_a_right_draft, {}).status()));
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
