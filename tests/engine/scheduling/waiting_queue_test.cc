#include "engine/scheduling/waiting_queue.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "tests/engine/scheduling/sequences.h"

namespace winnow {
namespace {

class WaitingQueueTest : public testing::Test {
 protected:
  Sequence& Add(int priority, const std::string& client = "") {
    Sequence& sequence = made_.Make({.priority = priority, .client = client});
    queue_.Add(sequence);
    return sequence;
  }
  /// Starts the next one.
  Sequence* Take() {
    Sequence* next = queue_.Next();
    if (next == nullptr) return nullptr;
    queue_.NoteTurn(*next);
    queue_.Remove(*next);
    return next;
  }

  Sequences made_;
  WaitingQueue queue_;
};

TEST_F(WaitingQueueTest, NobodyIsNextWhenNobodyWaits) {
  EXPECT_TRUE(queue_.empty());
  EXPECT_EQ(queue_.Next(), nullptr);
}

TEST_F(WaitingQueueTest, LowerPrioritiesComeFirstThenOlderOnes) {
  Sequence& last = Add(1);
  Sequence& first = Add(-1);
  Sequence& second = Add(0);
  Sequence& third = Add(0);
  for (Sequence* expected : {&first, &second, &third, &last}) EXPECT_EQ(Take(), expected);
  EXPECT_TRUE(queue_.empty());
}

TEST_F(WaitingQueueTest, WhoHasBeenStartedComesBeforeOthersOfItsPriority) {
  Sequence& fresh = Add(0);
  Sequence& preempted = made_.Make();
  preempted.set_started();
  queue_.Add(preempted);
  EXPECT_EQ(Take(), &preempted);
  EXPECT_EQ(Take(), &fresh);
}

TEST_F(WaitingQueueTest, TurnGoesToTheClientThatWasServedLeast) {
  Sequence& a1 = Add(0, "a");
  Sequence& a2 = Add(0, "a");
  Sequence& b = Add(0, "b");
  queue_.Serve("a", 10);
  EXPECT_EQ(Take(), &b);
  EXPECT_EQ(Take(), &a1);
  EXPECT_EQ(Take(), &a2);
}

TEST_F(WaitingQueueTest, NobodySavesTurnsUp) {
  Add(0, "a");
  queue_.Serve("a", 100);
  Sequence& a2 = Add(0, "a");
  Sequence& c = Add(0, "c");  // lifted to a's 100: it was not there to be served
  queue_.Serve("c", 1);
  Take();
  EXPECT_EQ(Take(), &a2);
  EXPECT_EQ(Take(), &c);
}

TEST_F(WaitingQueueTest, PausedOnesArePassedOver) {
  Sequence& paused = Add(0, "a");
  paused.set_paused(true);
  Sequence& other = Add(1, "b");
  EXPECT_EQ(Take(), &other);
  EXPECT_EQ(queue_.Next(), nullptr);
  paused.set_paused(false);
  EXPECT_EQ(Take(), &paused);
}

TEST_F(WaitingQueueTest, TheNextButForSomeIsWhoWouldBeNextWithoutThem) {
  Sequence& first = Add(0, "a");
  Sequence& second = Add(0, "a");
  Sequence& third = Add(0, "b");
  Sequence& lower = Add(1);
  std::vector<const Sequence*> passed;
  const auto may = [&](const Sequence& s) { return !std::ranges::count(passed, &s); };
  for (Sequence* expected : {&first, &third, &second, &lower}) {
    EXPECT_EQ(queue_.Next(may), expected);
    passed.push_back(expected);
    if (expected == &first) queue_.Serve("a", 1);
  }
  EXPECT_EQ(queue_.Next(may), nullptr);
}

TEST_F(WaitingQueueTest, WhoFindsNoPlaceWhereItWaitsIsPromotedAllTheSame) {
  Sequence& low = Add(5);
  const auto may = [](const Sequence& s) { return s.priority() == 0; };
  for (int turn = 0; turn < WaitingQueue::kPromotionInterval; ++turn) {
    Sequence& high = Add(0);
    ASSERT_EQ(queue_.Next(may), &high);
    queue_.NoteTurn(high);
    queue_.Remove(high);
  }
  Add(0);
  EXPECT_EQ(queue_.Next(may), &low);
}

TEST_F(WaitingQueueTest, EveryEighthTurnThatLeavesLowerOnesWaitingPromotesTheOldest) {
  Sequence& old = Add(5);
  Sequence& young = Add(3);
  int turns = 0;
  while (true) {
    Add(0);
    Sequence* next = Take();
    if (next == &old) break;
    ASSERT_NE(next, &young);
    ASSERT_LE(++turns, WaitingQueue::kPromotionInterval);
  }
  EXPECT_EQ(turns, WaitingQueue::kPromotionInterval);
  EXPECT_EQ(old.priority(), 0);
  EXPECT_EQ(young.priority(), 3);
}

TEST_F(WaitingQueueTest, EverybodyWhoWaitsIsVisited) {
  std::vector<const Sequence*> expected = {&Add(0, "a"), &Add(2, "b"), &Add(0, "b")};
  Sequence& started = made_.Make();
  started.set_started();
  queue_.Add(started);
  expected.push_back(&started);
  std::vector<const Sequence*> visited;
  queue_.ForEach([&](const Sequence& sequence) { visited.push_back(&sequence); });
  std::ranges::sort(expected);
  std::ranges::sort(visited);
  EXPECT_EQ(visited, expected);
}

}  // namespace
}  // namespace winnow
