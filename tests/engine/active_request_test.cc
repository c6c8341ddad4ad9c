#include "engine/active_request.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "tests/engine/core_requests.h"

namespace winnow {
namespace {

using ::testing::ElementsAre;

const absl::Time kSubmitted = absl::UnixEpoch();

absl::Time After(int seconds) { return kSubmitted + absl::Seconds(seconds); }

class ActiveRequestTest : public testing::Test {
 protected:
  static Request TwoContinuations() {
    Request request = Sampled(1, Prompt(4), 8, /*n=*/2);
    request.sampling.seed.reset();
    return request;
  }
  /// Lets a sequence choose these tokens, drafts first, and hands them out.
  void Deliver(Sequence& sequence, const std::vector<int32_t>& tokens, absl::Time now) {
    sequence.SetDrafts(std::span(tokens).first(tokens.size() - 1));
    active_.Deliver(sequence, *sequence.Accept(tokens, {}), now);
  }

  LetterTokenizer tokenizer_{CoreBench::kVocab};
  RecordingSink sink_{2};
  ActiveRequest active_{TwoContinuations(), &sink_, kSubmitted, {}, 5, 77, Options(), tokenizer_};
};

TEST_F(ActiveRequestTest, OneSequenceForEachContinuationTheOthersForkFromTheFirst) {
  ASSERT_EQ(active_.sequences().size(), 2u);
  EXPECT_THAT(active_.first().forks(), ElementsAre(active_.sequences()[1].get()));
  EXPECT_EQ(active_.first().Uniform(0), UniformAt(77, 0, 0)) << "the seed for who brings none";
  EXPECT_EQ(active_.sequences()[1]->Uniform(0), UniformAt(77, 1, 0));
}

TEST_F(ActiveRequestTest, SlowReaderPausesAllSequences) {
  sink_.has_room = false;
  active_.NotePauses();
  EXPECT_TRUE(active_.sequences()[1]->paused());
  sink_.has_room = true;
  active_.NotePauses();
  EXPECT_FALSE(active_.sequences()[1]->paused());
}

TEST_F(ActiveRequestTest, SummarySaysWhenThingsCame) {
  active_.NoteStart(/*cached_tokens=*/3, After(2));
  active_.NotePreemption();
  Deliver(active_.first(), {1}, After(5));
  Deliver(*active_.sequences()[1], {2}, After(6));
  Deliver(active_.first(), {3}, After(9));
  const RequestSummary summary = active_.Conclude(absl::OkStatus(), After(10));
  EXPECT_EQ(summary.prompt_tokens, 4);
  EXPECT_EQ(summary.cached_tokens, 3);
  EXPECT_EQ(summary.preemptions, 1);
  EXPECT_EQ(summary.generated_tokens, 3);
  EXPECT_EQ(summary.queue_seconds, 2);
  EXPECT_EQ(summary.ttft_seconds, 5);
  EXPECT_EQ(summary.total_seconds, 10);
  EXPECT_THAT(summary.itl_seconds, ElementsAre(4));
}

TEST_F(ActiveRequestTest, TokensThatComeTogetherHaveNoGapBetweenThem) {
  Deliver(active_.first(), {1, 2, 3}, After(1));
  Deliver(active_.first(), {4, 5}, After(4));
  const RequestSummary summary = active_.Conclude(absl::OkStatus(), After(5));
  EXPECT_THAT(summary.itl_seconds, ElementsAre(0, 0, 3, 0));
  EXPECT_EQ(summary.generated_tokens, 5);
}

TEST_F(ActiveRequestTest, AbortedSequencesHaveALastOutputBeforeTheSummary) {
  for (const auto& sequence : active_.sequences()) active_.Abort(*sequence);
  active_.Conclude(absl::CancelledError("gone"), After(1));
  active_.Finish();
  EXPECT_EQ(sink_.continuations[1].finish_reason, FinishReason::kCancelled);
  EXPECT_EQ(sink_.summary->status, absl::CancelledError("gone"));
}

}  // namespace
}  // namespace winnow
