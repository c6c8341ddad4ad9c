#include "engine/scheduling/summary_slots.h"

#include <algorithm>
#include <random>
#include <set>
#include <vector>

#include "gtest/gtest.h"
#include "tests/engine/scheduling/sequences.h"

namespace winnow {
namespace {

TEST(SummarySlotsTest, ASequenceFindsItsSlotAsTheLastStepLeftIt) {
  Sequences made;
  const Sequence& a = made.Make({.prompt = 3});
  const Sequence& b = made.Make({.prompt = 3});
  SummarySlots slots(2);
  EXPECT_EQ(slots.Take(a, 100), (SummarySlot{.slot = 0, .tokens = 0}));
  EXPECT_EQ(slots.Take(b, 63), (SummarySlot{.slot = 1, .tokens = 0}));
  EXPECT_EQ(slots.Take(a, 127), (SummarySlot{.slot = 0, .tokens = 64}));
  EXPECT_EQ(slots.Take(a, 128), (SummarySlot{.slot = 0, .tokens = 64}));
  EXPECT_EQ(slots.Take(a, 129), (SummarySlot{.slot = 0, .tokens = 128}));
  EXPECT_EQ(slots.Take(b, 64), (SummarySlot{.slot = 1, .tokens = 0}));
}

TEST(SummarySlotsTest, WhatIsComputedAnewIsSummarisedAnew) {
  Sequences made;
  const Sequence& a = made.Make({.prompt = 3});
  SummarySlots slots(1);
  slots.Take(a, 500);
  EXPECT_EQ(slots.Take(a, 448).tokens, 448);  // behind all that the slot holds
  EXPECT_EQ(slots.Take(a, 447).tokens, 0);
  EXPECT_EQ(slots.Take(a, 600).tokens, 384);
}

TEST(SummarySlotsTest, TheOneThatWasTakenLongestAgoGoesToANewSequence) {
  Sequences made;
  const Sequence& a = made.Make({.prompt = 3});
  const Sequence& b = made.Make({.prompt = 3});
  const Sequence& c = made.Make({.prompt = 3});
  SummarySlots slots(2);
  slots.Take(a, 100);
  slots.Take(b, 100);
  slots.Take(a, 101);
  EXPECT_EQ(slots.Take(c, 200), (SummarySlot{.slot = 1, .tokens = 0}));
  EXPECT_EQ(slots.Take(a, 102), (SummarySlot{.slot = 0, .tokens = 64}));
  EXPECT_EQ(slots.Take(b, 101), (SummarySlot{.slot = 1, .tokens = 0}));
}

TEST(SummarySlotsTest, ASlotThatWasLeftLongAgoIsUsedBeforeAnotherOne) {
  Sequences made;
  SummarySlots slots(8);
  int32_t largest = 0;
  for (int i = 0; i < 20; ++i) {
    const Sequence& sequence = made.Make({.prompt = 3});
    for (int step = 0; step < 8; ++step) {
      largest = std::max(largest, slots.Take(sequence, 100 + step).slot);
    }
  }
  EXPECT_EQ(largest, 1);
}

TEST(SummarySlotsTest, SequencesOfOneStepNeverShareASlot) {
  Sequences made;
  constexpr int kSlots = 4;
  SummarySlots slots(kSlots);
  std::vector<const Sequence*> sequences;
  for (int i = 0; i < 9; ++i) sequences.push_back(&made.Make({.prompt = 3}));
  std::mt19937 random(3);
  for (int step = 0; step < 1000; ++step) {
    std::ranges::shuffle(sequences, random);
    std::set<int32_t> taken;
    const int count = 1 + static_cast<int>(random() % kSlots);
    for (int i = 0; i < count; ++i) {
      const int32_t slot = slots.Take(*sequences[static_cast<size_t>(i)], 100 + step).slot;
      EXPECT_LT(slot, kSlots);
      EXPECT_TRUE(taken.insert(slot).second) << step;
    }
  }
}

TEST(SummarySlotsTest, WithoutSlotsNobodyHasOne) {
  Sequences made;
  SummarySlots slots(0);
  EXPECT_EQ(slots.Take(made.Make({.prompt = 3}), 100), SummarySlot());
}

}  // namespace
}  // namespace winnow
