// Sparse attention of a backend against a direct float64 transcription of its definition
// (Backend::Attention, LabelCodec).

#include "kernels/selection.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>
#include <set>
#include <vector>

#include "gtest/gtest.h"
#include "tests/kernels/contracted_budgets.h"
#include "tests/kernels/paged_sequence.h"

namespace winnow::test {
namespace {

constexpr Selection kSparse = {.kind = SelectionKind::kLabels, .fraction = 1.0f / 8};

TEST(LabelsTest, AreTheRoundedProjectionsOfTheKeys) {
  for (const int width : {8, 16, 24, 32, 64}) {
    const Sequence sequence({.width = width, .context = 100}, 1);
    int unequal = 0;
    for (int t = 0; t < 100; ++t) {
      for (int g = 0; g < 2; ++g) {
        for (int i = 0; i < width; ++i) {
          double z = sequence.offset[g * width + i];
          for (int c = 0; c < 64; ++c) {
            z += sequence.Query(t, 6 + g, c) * sequence.key_basis[(g * 64 + c) * width + i];
          }
          z = std::clamp(z, 0.0, 15.0);
          EXPECT_NEAR(sequence.Code(t, g, i), z, 0.5 + 1e-4);
          if (sequence.Code(t, g, i) != std::nearbyint(z)) ++unequal;
        }
      }
    }
    EXPECT_LE(unequal, 2) << "of width " << width;  // those that lie between two codes
  }
}

TEST(SelectionTest, AttendsToTheBestApproximateScores) {
  int compared = 0;
  int rows = 0;
  uint32_t seed = 10;
  for (const Shape& shape :
       {Shape{}, Shape{.heads = 4, .kv_heads = 4, .head_dim = 128, .width = 32, .context = 300},
        Shape{.heads = 8, .kv_heads = 1, .head_dim = 48, .width = 8, .context = 2500},
        Shape{.heads = 9, .kv_heads = 3, .width = 64, .context = 5000, .block_tokens = 16},
        Shape{.heads = 10, .kv_heads = 2, .width = 24, .block_tokens = 256}}) {
    Sequence sequence(shape, ++seed);
    for (const float fraction : {0.02f, 1.0f / 16, 0.125f, 0.5f, 0.97f}) {
      const Selection selection{.kind = SelectionKind::kLabels, .fraction = fraction};
      std::vector<ProbedMass> probed;
      const int row = shape.context - 1;
      const auto out = sequence.Attend(row, {selection}, &probed);
      compared += sequence.Check(row, selection, out.data(), probed.data());
      rows += shape.kv_heads;
    }
  }
  EXPECT_GT(compared, rows / 2);
}

TEST(SelectionTest, AttendsToTheBestExactScores) {
  Sequence sequence({}, 20, /*key_spread=*/2);
  int compared = 0;
  for (const float fraction : {0.05f, 0.1f, 0.3f}) {
    const Selection selection{.kind = SelectionKind::kScores, .fraction = fraction};
    std::vector<ProbedMass> probed;
    const auto out = sequence.Attend(699, {selection}, &probed);
    compared += sequence.Check(699, selection, out.data(), probed.data());
  }
  EXPECT_GE(compared, 3);
}

TEST(SelectionTest, LayersMayScaleAndCapTheirScores) {
  int compared = 0;
  for (const SelectionKind kind : {SelectionKind::kLabels, SelectionKind::kScores}) {
    Sequence sequence({.head_dim = 256}, 29, /*key_spread=*/2);
    sequence.attention.scale = 0.2f;
    sequence.attention.soft_cap = 4;
    const Selection selection{.kind = kind, .fraction = 0.1f};
    std::vector<ProbedMass> probed;
    const auto out = sequence.Attend(699, {selection}, &probed);
    compared += sequence.Check(699, selection, out.data(), probed.data());
  }
  EXPECT_GE(compared, 3);
}

TEST(SelectionTest, LayersWithASlidingWindowAreDenseWithinItWhateverRowsSelect) {
  Sequence sequence({}, 30);
  sequence.attention.sliding_window = 100;
  const auto dense = sequence.Attend(699, {Selection{}});
  for (const SelectionKind kind :
       {SelectionKind::kLabels, SelectionKind::kScores, SelectionKind::kWindow}) {
    std::vector<ProbedMass> probed;
    EXPECT_EQ(sequence.Attend(699, {{.kind = kind, .fraction = 0.1f}}, &probed), dense);
    EXPECT_EQ(probed, (std::vector<ProbedMass>{{}, {}}));
  }
}

TEST(SelectionTest, WindowTakesTheFirstAndTheLastTokens) {
  Sequence sequence({}, 21);
  const Selection selection{.kind = SelectionKind::kWindow, .fraction = 0.1f};
  std::vector<ProbedMass> probed;
  const auto out = sequence.Attend(650, {selection, selection}, &probed);
  EXPECT_EQ(sequence.Check(650, selection, out.data(), probed.data()), 2);
  EXPECT_EQ(sequence.Check(651, selection, out.data() + 6 * 64, probed.data() + 2), 2);
}

TEST(SelectionTest, EqualScoresAreTakenInOrderOfPosition) {
  Shape shape{.context = 400};
  Sequence sequence(shape, 22);
  for (int t = 0; t < shape.context; ++t) {  // all keys alike
    std::copy_n(&sequence.qkv[int64_t{shape.heads} * 64], 2 * 64,
                &sequence.qkv[int64_t{t} * shape.columns() + shape.heads * 64]);
  }
  sequence.Store();
  const Selection selection{.kind = SelectionKind::kLabels, .budget_tokens = 50};
  const auto out = sequence.Attend(399, {selection});
  for (int h = 0; h < shape.heads; ++h) {
    for (int c = 0; c < 64; ++c) {
      double want = 0;  // the mean over positions 0 to 33 and 384 to 399
      for (int j = 0; j < 400; ++j) {
        if (j < 34 || j >= 384) want += sequence.Value(j, h / 3, c) / 50;
      }
      ASSERT_NEAR(out[h * 64 + c], want, 1e-5);
    }
  }
}

TEST(SelectionTest, ABudgetOfTheWholeContextEqualsDenseAttentionExactly) {
  Sequence sequence({}, 23);
  for (const int position : {0, 18, 31, 255, 256, 600, 699}) {
    const auto dense = sequence.Attend(position, {Selection{}});
    for (const SelectionKind kind :
         {SelectionKind::kLabels, SelectionKind::kScores, SelectionKind::kWindow}) {
      std::vector<ProbedMass> probed;
      EXPECT_EQ(sequence.Attend(position, {{.kind = kind, .fraction = 1}}, &probed), dense);
      EXPECT_EQ(probed, (std::vector<ProbedMass>{{}, {}}));
      EXPECT_EQ(sequence.Attend(position, {{.kind = kind, .budget_tokens = 700}}), dense);
    }
  }
}

TEST(SelectionTest, OneTokenLessThanTheContextIsNearlyDense) {
  Sequence sequence({}, 24);
  const Selection selection{.kind = SelectionKind::kScores, .budget_tokens = 699};
  std::vector<ProbedMass> probed;
  sequence.Attend(699, {selection}, &probed);
  for (const ProbedMass& mass : probed) EXPECT_GT(mass.recall, 0.999f);
}

TEST(SelectionTest, ARowIsTheSameAloneAndAmongOthers) {
  Sequence sequence({.heads = 9, .kv_heads = 3}, 25);
  constexpr int kFirst = 540;
  std::vector<Selection> selections;
  for (int i = 0; i < 150; ++i) {
    switch (i % 5) {
      case 0:
        selections.push_back({});
        break;
      case 1:
        selections.push_back({.kind = SelectionKind::kWindow, .fraction = 0.2f});
        break;
      default:
        selections.push_back({.kind = SelectionKind::kLabels, .fraction = 0.02f * (i % 60 + 1)});
    }
  }
  const auto together = sequence.Attend(kFirst, selections);
  constexpr int kRow = 9 * 64;
  for (int i = 0; i < 150; ++i) {
    const auto alone = sequence.Attend(kFirst + i, {selections[i]});
    ASSERT_EQ(std::memcmp(alone.data(), &together[i * kRow], kRow * sizeof(float)), 0) << i;
  }
}

TEST(SelectionTest, NumbersThatAreNotFiniteStillSelectTokensOfTheContext) {
  // With a group of one and of several, among few tokens and many.
  for (const Shape& shape : {Shape{.heads = 2, .kv_heads = 2, .context = 3000}, Shape{}}) {
    for (const float broken : {NAN, -NAN, INFINITY}) {
      for (const int spoilt : {1, 7, shape.context}) {  // rows
        Sequence sequence(shape, 29);
        std::mt19937 random(30);
        for (int i = 0; i < spoilt; ++i) {
          const int row = spoilt == shape.context ? i : static_cast<int>(random() % shape.context);
          std::fill_n(&sequence.qkv[int64_t{row} * shape.columns()], shape.columns(), broken);
        }
        sequence.Store();
        for (const SelectionKind kind : {SelectionKind::kLabels, SelectionKind::kScores}) {
          for (const float fraction : {0.05f, 0.5f}) {
            // Recalls are measured over what was selected, which must lie in the context.
            std::vector<ProbedMass> probed;
            sequence.Attend(shape.context - 2, {{kind, fraction, 0}, {kind, fraction, 0}}, &probed);
            for (const auto& [recall, estimated] : probed) {
              EXPECT_TRUE(std::isnan(recall) || recall <= 1);
              EXPECT_EQ(estimated, 0);
            }
          }
        }
      }
    }
  }
}

TEST(SelectionTest, RowsOfMoreContextThanIsComputedAtOnceAreTheSame) {
  const Shape shape{.heads = 16, .kv_heads = 16, .head_dim = 16, .width = 8, .context = 5000};
  Sequence sequence(shape, 31);
  constexpr int kRows = 110;  // times the heads and the context: more than 2^23 tokens
  std::vector<Selection> selections;
  for (int i = 0; i < kRows; ++i) {
    selections.push_back(i % 3 == 0 ? Selection{.kind = SelectionKind::kLabels, .fraction = 1}
                                    : Selection{.kind = SelectionKind::kLabels,
                                                .fraction = 0.01f * static_cast<float>(i + 1)});
  }
  std::vector<ProbedMass> probed;
  const auto together = sequence.Attend(shape.context - kRows, selections, &probed);
  const size_t row = size_t{16} * 16;
  for (int i = 0; i < kRows; i += 7) {
    std::vector<ProbedMass> own_probed;
    const auto alone = sequence.Attend(shape.context - kRows + i, {selections[i]}, &own_probed);
    EXPECT_EQ(std::memcmp(alone.data(), &together[i * row], row * sizeof(float)), 0) << i;
    EXPECT_TRUE(std::equal(own_probed.begin(), own_probed.end(), probed.begin() + i * 16)) << i;
  }
}

TEST(SelectionTest, HeadsHaveBudgetsOfTheirOwn) {
  Sequence sequence({}, 27);
  const float weights[] = {0.5f, 4.0f};
  sequence.attention.budget_weights = weights;
  std::vector<ProbedMass> probed;
  const auto out = sequence.Attend(699, {kSparse}, &probed);
  EXPECT_GE(sequence.Check(699, kSparse, out.data(), probed.data()), 1);
  EXPECT_LT(probed[0].recall, probed[1].recall);
}

TEST(BudgetTokensTest, IsTheShareOfTheContextWithinItsLimits) {
  LayerAttention layer;  // 4 sinks, a window of 16
  const Selection sixteenth{.kind = SelectionKind::kLabels, .fraction = 1.0f / 16};
  EXPECT_EQ(BudgetTokens(sixteenth, layer, 0, 1600), 100);
  EXPECT_EQ(BudgetTokens(sixteenth, layer, 0, 1601), 101);
  EXPECT_EQ(BudgetTokens(sixteenth, layer, 0, 100), 20);
  EXPECT_EQ(BudgetTokens(sixteenth, layer, 0, 12), 12);
  EXPECT_EQ(BudgetTokens({}, layer, 0, 1600), 1600);
  const Selection count{.kind = SelectionKind::kLabels, .budget_tokens = 64};
  EXPECT_EQ(BudgetTokens(count, layer, 0, 1600), 64);
  EXPECT_EQ(BudgetTokens(count, layer, 0, 50), 50);
  // Of 100 tokens, 64 are the same for all heads.
  const float weights[] = {3, 1e30f, 0.25f};
  layer.budget_weights = weights;
  EXPECT_EQ(BudgetTokens(sixteenth, layer, 0, 1600), 64 + 3 * 36);
  EXPECT_EQ(BudgetTokens(sixteenth, layer, 1, 1600), 1600);
  EXPECT_EQ(BudgetTokens(sixteenth, layer, 2, 1600), 64 + 9);
  EXPECT_EQ(BudgetTokens(sixteenth, layer, 2, 800), 50);
  EXPECT_EQ(BudgetTokens(count, layer, 0, 1600), 64);
  EXPECT_EQ(BudgetTokens(count, layer, 2, 1600), 64);
  const Selection window{.kind = SelectionKind::kWindow, .fraction = 1.0f / 16};
  EXPECT_EQ(BudgetTokens(window, layer, 0, 1600), 100);
  layer.min_context = 1601;
  EXPECT_EQ(BudgetTokens(sixteenth, layer, 0, 1600), 1600);
  layer.sliding_window = 500;
  EXPECT_EQ(BudgetTokens({}, layer, 0, 1600), 500);
  EXPECT_EQ(BudgetTokens(sixteenth, layer, 0, 2000), 500);
  EXPECT_EQ(BudgetTokens(window, layer, 0, 499), 499);
}

// A device's compiler contracts products and sums, the host's does not: were the budgets others,
// the device would write past the lists that the host has made room for.
TEST(BudgetTokensTest, IsTheSameHoweverCompilersRoundWhatTheyMayContract) {
#if defined(__x86_64__)
  if (!__builtin_cpu_supports("fma")) GTEST_SKIP() << "the processor fuses nothing";
#endif
  const auto budget = [](const BudgetQuestion& question) {
    LayerAttention layer;
    layer.budget_weights = &question.weight;
    return BudgetTokens({SelectionKind::kLabels, question.fraction, question.budget_tokens}, layer,
                        0, question.context);
  };
  const BudgetQuestion known{.weight = 0.2109f, .budget_tokens = 4853, .context = 100000};
  EXPECT_EQ(budget(known), ContractedBudget(known));
  std::mt19937 random(28);
  int unequal = 0;
  for (int i = 0; i < 1000000; ++i) {
    BudgetQuestion question;
    // As label files have them, with four decimals.
    question.weight = static_cast<float>(random() % 40000 + 1) / 10000;
    question.context = static_cast<int32_t>(random() % 200000 + 1);
    if (i % 2 == 0) {
      question.fraction = 1 / (static_cast<float>(random() % 512 + 16) / 16);
    } else {
      question.budget_tokens = static_cast<int32_t>(random() % 20000 + 1);
    }
    unequal += budget(question) != ContractedBudget(question);
  }
  EXPECT_EQ(unequal, 0);
}

TEST(TailWeightTest, IsTheHeadsOrZeroWhereNothingCanBeEstimated) {
  const std::vector<float> weights = {0.5f, 0, 1};
  LayerAttention layer;
  layer.tail_weights = weights.data();
  Selection selection{.kind = SelectionKind::kLabels, .fraction = 1.0f / 16};
  EXPECT_EQ(TailWeight(selection, layer, 0, 8192), 0.5f);
  EXPECT_EQ(TailWeight(selection, layer, 1, 8192), 0);
  EXPECT_EQ(TailWeight(selection, layer, 2, 8192), 1);
  // Budgets that would be uniform, of at least 64 tokens, whatever the head's own is.
  const float spread[] = {8, 8, 0.1f};
  layer.budget_weights = spread;
  EXPECT_EQ(TailWeight(selection, layer, 2, 1024), 1);
  EXPECT_EQ(TailWeight(selection, layer, 0, 1023), 0);
  selection.budget_tokens = 64;
  EXPECT_EQ(TailWeight(selection, layer, 0, 1023), 0.5f);
  selection.budget_tokens = 63;
  EXPECT_EQ(TailWeight(selection, layer, 0, 8192), 0);
  selection.budget_tokens = 100;
  // Nothing but sinks before the row's piece.
  layer.sinks = 128;
  EXPECT_EQ(TailWeight(selection, layer, 0, 192), 0);
  EXPECT_EQ(TailWeight(selection, layer, 0, 193), 0.5f);
  // Scores that labels do not foresee, or that are not theirs.
  layer.soft_cap = 30;
  EXPECT_EQ(TailWeight(selection, layer, 0, 8192), 0);
  layer.soft_cap = 0;
  for (const SelectionKind kind :
       {SelectionKind::kAll, SelectionKind::kWindow, SelectionKind::kScores}) {
    selection.kind = kind;
    EXPECT_EQ(TailWeight(selection, layer, 0, 8192), 0);
  }
  selection.kind = SelectionKind::kLabels;
  EXPECT_EQ(TailWeight(selection, layer, 0, 8192), 0.5f);
  layer.tail_weights = nullptr;
  EXPECT_EQ(TailWeight(selection, layer, 0, 8192), 0);
}

}  // namespace
}  // namespace winnow::test
