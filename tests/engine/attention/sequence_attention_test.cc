#include "engine/attention/sequence_attention.h"

#include <set>
#include <utility>

#include "gtest/gtest.h"

namespace winnow {
namespace {

constexpr AttentionPolicy kPolicy = {.kind = SelectionKind::kLabels, .sparsity = 16};

TEST(SequenceAttentionTest, ThePromptIsDenseAndWhatFollowsSelects) {
  const SequenceAttention attention(kPolicy, {}, 100);
  EXPECT_EQ(attention.SelectionAt(0).kind, SelectionKind::kAll);
  EXPECT_EQ(attention.SelectionAt(99).kind, SelectionKind::kAll);
  EXPECT_EQ(attention.SelectionAt(100).kind, SelectionKind::kLabels);
  EXPECT_EQ(attention.SelectionAt(100).fraction, 1.0f / 16);
}

TEST(SequenceAttentionTest, ProbesOneGeneratedTokenOfEveryInterval) {
  const SequenceAttention attention(kPolicy, {.interval_tokens = 8}, 100);
  std::set<std::pair<int, int>> heads;
  for (int position = 0; position < 3000; ++position) {
    const auto probe = attention.ProbeAt(position, 5, 3);
    ASSERT_EQ(probe.has_value(), position >= 100 && (position - 100) % 8 == 0) << position;
    if (!probe) continue;
    ASSERT_TRUE(probe->layer >= 0 && probe->layer < 5 && probe->kv_head >= 0 && probe->kv_head < 3);
    heads.emplace(probe->layer, probe->kv_head);
  }
  EXPECT_EQ(heads.size(), 15u);  // all of them, in time
}

TEST(SequenceAttentionTest, DenseSequencesAreNotProbed) {
  const SequenceAttention attention({}, {.interval_tokens = 1}, 100);
  EXPECT_FALSE(attention.ProbeAt(100, 5, 3).has_value());
}

TEST(SequenceAttentionTest, WhatIsComputedAgainIsNeitherProbedNorCountedAgain) {
  SequenceAttention attention(kPolicy, {.interval_tokens = 1}, 100);
  for (const int position : {100, 101, 100, 101, 102}) {
    attention.AddTraffic(position, {.row_bytes = 10, .heads = 1});
    if (attention.ProbeAt(position, 5, 3)) attention.AddProbe(position, {0.5f});
  }
  EXPECT_EQ(attention.traffic().row_bytes, 30);
  EXPECT_EQ(attention.recall_samples(), 3);
}

TEST(SequenceAttentionTest, RecallBelowTheFloorDoublesTheBudgetFromTheNextTokenOn) {
  SequenceAttention attention(kPolicy, {.interval_tokens = 1, .floor = 0.9, .floor_samples = 4},
                              100);
  for (int position = 100; position < 103; ++position) {
    EXPECT_FALSE(attention.AddProbe(position, {0.5f}));
  }
  EXPECT_TRUE(attention.AddProbe(103, {0.5f}));
  EXPECT_EQ(attention.SelectionAt(103).fraction, 1.0f / 16);  // computed again, it is the same
  EXPECT_EQ(attention.SelectionAt(104).fraction, 2.0f / 16);
  EXPECT_FALSE(attention.AddProbe(104, {0.5f}));  // the mean starts anew
  for (int position = 105; position < 120; ++position) attention.AddProbe(position, {0.8f});
  EXPECT_EQ(attention.fallbacks(), 5);                   // 16 further samples
  EXPECT_EQ(attention.SelectionAt(120).fraction, 2.0f);  // all there is
  EXPECT_EQ(attention.SelectionAt(103).fraction, 1.0f / 16);
}

TEST(SequenceAttentionTest, GoodRecallLeavesTheBudgetAlone) {
  SequenceAttention attention(kPolicy, {.interval_tokens = 1, .floor = 0.9, .floor_samples = 4}, 0);
  for (int position = 0; position < 100; ++position) {
    EXPECT_FALSE(attention.AddProbe(position, {position % 2 == 0 ? 0.86f : 0.99f}));
  }
  EXPECT_EQ(attention.fallbacks(), 0);
}

TEST(SequenceAttentionTest, CountedBudgetsDoubleToo) {
  SequenceAttention attention({.kind = SelectionKind::kLabels, .budget_tokens = 64},
                              {.interval_tokens = 1, .floor = 1, .floor_samples = 1}, 10);
  EXPECT_TRUE(attention.AddProbe(10, {0.5f}));
  EXPECT_EQ(attention.SelectionAt(11).budget_tokens, 128);
}

TEST(PolicyTest, NamesAreReadAsTheyArePrinted) {
  for (const SelectionKind kind : {SelectionKind::kAll, SelectionKind::kLabels,
                                   SelectionKind::kWindow, SelectionKind::kScores}) {
    const auto parsed = ParsePolicyName(PolicyName(kind));
    ASSERT_TRUE(parsed.ok());
    EXPECT_EQ(*parsed, kind);
  }
  EXPECT_EQ(ParsePolicyName("Dense").status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace winnow
