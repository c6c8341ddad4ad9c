#include "engine/calibration/tail_weight.h"

#include "gtest/gtest.h"

namespace winnow {
namespace {

TEST(TailWeightTest, TheGridGoesFromNothingToAll) {
  ASSERT_EQ(TailWeightGrid().size(), 9u);
  EXPECT_EQ(TailWeightGrid().front(), 0);
  EXPECT_EQ(TailWeightGrid()[3], 0.375);
  EXPECT_EQ(TailWeightGrid().back(), 1);
}

TEST(TailWeightTest, AParabolasLowestPointIsFoundBetweenWeights) {
  for (const double lowest : {0.08, 0.3, 0.5, 0.92}) {
    std::vector<double> errors;
    for (const double weight : TailWeightGrid()) {
      errors.push_back(2 + 3 * (weight - lowest) * (weight - lowest));
    }
    EXPECT_NEAR(WeightOfLeastError(errors, TailWeightGrid()), lowest, 1e-12);
  }
}

TEST(TailWeightTest, ErrorsThatOnlyRiseOrFallHaveTheirLeastAtAnEnd) {
  const std::vector<double> grid = {0, 0.5, 1};
  EXPECT_EQ(WeightOfLeastError(std::vector<double>{1, 2, 4}, grid), 0);
  EXPECT_EQ(WeightOfLeastError(std::vector<double>{4, 2, 1}, grid), 1);
}

TEST(TailWeightTest, OfEqualErrorsTheSmallestWeightIsTaken) {
  const std::vector<double> grid = {0, 0.5, 1};
  EXPECT_EQ(WeightOfLeastError(std::vector<double>{1, 1, 1}, grid), 0);
  EXPECT_EQ(WeightOfLeastError(std::vector<double>{0.5}, std::vector<double>{0}), 0);
}

}  // namespace
}  // namespace winnow
