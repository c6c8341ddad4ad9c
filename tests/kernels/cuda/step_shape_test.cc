#include "kernels/cuda/step_shape.h"

#include <algorithm>
#include <cstdint>
#include <random>
#include <set>
#include <vector>

#include "gtest/gtest.h"

namespace winnow::cuda {
namespace {

struct Row {
  Selection selection;
  int context;
};

StepShape ShapeOf(const std::vector<Row>& rows) {
  StepShape shape;
  int longest = 0;
  for (const Row& row : rows) {
    shape.AddDecodeRow(row.selection, row.context);
    longest = std::max(longest, (row.context + 31) / 32);
  }
  shape.Round(longest);
  return shape;
}

TEST(StepShapeTest, NoHeadOfAnyRowSelectsMoreThanTheShapeSays) {
  std::mt19937 random(1);
  const auto real = [&](float low, float high) {
    return std::uniform_real_distribution<float>(low, high)(random);
  };
  constexpr SelectionKind kKinds[] = {SelectionKind::kAll, SelectionKind::kLabels,
                                      SelectionKind::kWindow, SelectionKind::kScores};
  for (int round = 0; round < 20000; ++round) {
    std::vector<Row> rows(1 + random() % 6);
    for (Row& row : rows) {
      row.context = 1 + static_cast<int>(random() % (random() % 2 == 0 ? 700 : 100000));
      row.selection.kind = kKinds[random() % 4];
      if (random() % 2 == 0) {
        row.selection.fraction = 1 / real(1, 64);
      } else {
        row.selection.budget_tokens = 1 + static_cast<int>(random() % 20000);
      }
    }
    std::vector<float> weights(3);
    for (float& weight : weights) weight = real(0.0001f, random() % 2 == 0 ? 1 : 20);
    LayerAttention attention;
    if (random() % 4 != 0) attention.budget_weights = weights.data();
    if (random() % 4 == 0) attention.min_context = static_cast<int>(random() % 1000);
    const StepShape shape = ShapeOf(rows);
    const int32_t most = shape.MaxSelected(attention, 3);
    ASSERT_EQ(shape.decode_rows, std::ssize(rows));
    for (const Row& row : rows) {
      ASSERT_LE(row.context, shape.max_context);
      for (int g = 0; g < 3; ++g) {
        const int32_t budget = BudgetTokens(row.selection, attention, g, row.context);
        if (budget < row.context) {
          ASSERT_LE(budget, most) << "context " << row.context << ", fraction "
                                  << row.selection.fraction << ", tokens "
                                  << row.selection.budget_tokens << ", weight " << weights[g];
        }
      }
    }
  }
}

TEST(StepShapeTest, DenseStepsSelectNothing) {
  EXPECT_EQ(ShapeOf({{{}, 5000}, {{}, 30}}).MaxSelected({}, 4), 0);
  LayerAttention dense;
  dense.min_context = 1 << 30;
  EXPECT_EQ(ShapeOf({{{SelectionKind::kLabels, 0.1f, 0}, 5000}}).MaxSelected(dense, 4), 0);
}

// A recording is kept for each shape, so requests must not have shapes of their own.
TEST(StepShapeTest, WhateverRequestsAskForThereAreFewShapes) {
  std::mt19937 random(2);
  std::set<StepShape> shapes;
  for (int i = 0; i < 10000; ++i) {
    const int context = 7700 + static_cast<int>(random() % 400);
    const float sparsity = std::uniform_real_distribution<float>(1, 64)(random);
    const int budget = 1 + static_cast<int>(random() % 8192);
    shapes.insert(ShapeOf({{{SelectionKind::kLabels, 1 / sparsity, 0}, context}}));
    shapes.insert(ShapeOf({{{SelectionKind::kLabels, 1, budget}, context}}));
  }
  EXPECT_LE(shapes.size(), 8u);  // budgets of 64 to 8192 tokens; contexts of up to 8192
}

}  // namespace
}  // namespace winnow::cuda
