#include "engine/scheduling/running_set.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "tests/engine/scheduling/sequences.h"

namespace winnow {
namespace {

using ::testing::ElementsAre;

class RunningSetTest : public testing::Test {
 protected:
  /// A running sequence that decodes; it rests if its reader is slow.
  Sequence& Decoding(int priority, bool slow_reader = false) {
    Sequence& sequence = made_.Make({.priority = priority});
    BeginToDecode(sequence);
    sequence.set_paused(slow_reader);
    running_.Add(sequence);
    return sequence;
  }
  Sequence& Waiting(int priority) { return made_.Make({.priority = priority}); }

  Sequences made_;
  RunningSet running_;
};

TEST_F(RunningSetTest, OrderIsPriorityThenAge) {
  Sequence& late = Decoding(1);
  Sequence& first = Decoding(0);
  Sequence& second = Decoding(0);
  EXPECT_THAT(std::vector(running_.begin(), running_.end()), ElementsAre(&first, &second, &late));
}

TEST_F(RunningSetTest, WalkGoesOnAfterSequencesHaveGoneMeanwhile) {
  Sequence& a = Decoding(0);
  Sequence& b = Decoding(0);
  Sequence& c = Decoding(0);
  running_.Remove(a);
  running_.Remove(b);
  EXPECT_EQ(*running_.After(a), &c);
  running_.Remove(c);
  EXPECT_TRUE(running_.After(a) == running_.end());
}

TEST_F(RunningSetTest, SlotsCountThoseThatWillFork) {
  Sequence& parent = Decoding(0);
  Decoding(0);
  parent.set_forks({&made_.Sibling(parent), &made_.Sibling(parent)});
  EXPECT_EQ(running_.slots(), 4);
}

TEST_F(RunningSetTest, OnlyWhoHasNothingToDoButToDecodeRests) {
  Sequence& computes_its_past = made_.Make();
  computes_its_past.SetPast();
  computes_its_past.set_paused(true);
  EXPECT_FALSE(computes_its_past.resting());
  EXPECT_TRUE(Decoding(0, /*slow_reader=*/true).resting());
  EXPECT_FALSE(Decoding(0).resting());
}

TEST_F(RunningSetTest, RestingOnesGiveWayFirstThenLowerPrioritiesYoungestFirst) {
  Sequence& resting = Decoding(0, /*slow_reader=*/true);
  Sequence& same = Decoding(0);
  Sequence& lower = Decoding(1);
  Sequence& youngest = Decoding(1);
  Sequence& waiting = Waiting(0);
  EXPECT_THAT(running_.ThoseWhoGiveWayTo(waiting), ElementsAre(&resting, &lower, &youngest));
  for (Sequence* next : {&resting, &youngest, &lower}) {
    EXPECT_EQ(running_.NextToGiveWayTo(waiting), next);
    running_.Remove(*next);
  }
  EXPECT_EQ(running_.NextToGiveWayTo(waiting), nullptr);
  EXPECT_EQ(&running_.NextToGiveWay(), &same) << "to one that runs, even of its own priority";
}

TEST_F(RunningSetTest, PromotionTakesFromNobody) {
  Sequence& running = Decoding(1);
  Sequence& waiting = Waiting(2);
  waiting.Promote(0);
  EXPECT_FALSE(RunningSet::GivesWay(running, waiting));
}

}  // namespace
}  // namespace winnow
