#include "engine/scheduling/summary_slots.h"

#include <set>

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

TEST(SummarySlotsTest, WithoutSlotsNobodyHasOne) {
  Sequences made;
  SummarySlots slots(0);
  EXPECT_EQ(slots.Take(made.Make({.prompt = 3}), 100), SummarySlot());
}

}  // namespace
}  // namespace winnow
