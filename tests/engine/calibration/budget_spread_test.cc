#include "engine/calibration/budget_spread.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace winnow {
namespace {

using testing::DoubleNear;
using testing::Each;
using testing::ElementsAre;

double Mean(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

double TotalError(const std::vector<std::vector<double>>& errors,
                  const std::vector<double>& fractions, const std::vector<double>& shares) {
  double total = 0;
  for (size_t i = 0; i < shares.size(); ++i) total += ErrorAt(errors[i], fractions, shares[i]);
  return total;
}

TEST(SpreadBudgetTest, TheBudgetGoesToWhatSavesMostErrorPerToken) {
  const std::vector<double> fractions = {0.125, 0.25, 0.5, 1};
  // The first head saves 8, 4, 2 per unit, the second 1, 0.5, 0.
  const std::vector<std::vector<double>> errors = {{3, 2, 1, 0}, {0.25, 0.125, 0, 0}};
  EXPECT_THAT(SpreadBudget(errors, fractions, 0.25),
              ElementsAre(DoubleNear(0.375, 1e-12), DoubleNear(0.125, 1e-12)));
}

TEST(SpreadBudgetTest, ABumpInACurveIsSteppedOver) {
  const std::vector<double> fractions = {0.125, 0.25, 0.5, 1};
  // Judged by its first step alone, the first head would get nothing.
  const std::vector<std::vector<double>> errors = {{4, 4, 0, 0}, {1, 0.9, 0.7, 0.3}};
  EXPECT_THAT(SpreadBudget(errors, fractions, 0.3125),
              ElementsAre(DoubleNear(0.5, 1e-12), DoubleNear(0.125, 1e-12)));
}

TEST(SpreadBudgetTest, NoOtherSpreadOfConvexCurvesErrsLess) {
  std::mt19937 random(3);
  std::uniform_real_distribution<double> uniform;
  const int units = 32;  // shares are tried in multiples of 1/32
  const std::vector<double> fractions = {1.0 / units, 4.0 / units, 8.0 / units, 1};
  for (int round = 0; round < 20; ++round) {
    std::vector<std::vector<double>> errors;
    for (int head = 0; head < 3; ++head) {
      // Random slopes that flatten make a convex curve that ends at no error.
      std::vector<double> slopes = {uniform(random), uniform(random), uniform(random)};
      std::sort(slopes.begin(), slopes.end());
      std::vector<double> curve(4);
      for (int i = 2; i >= 0; --i) {
        curve[i] = curve[i + 1] + slopes[2 - i] * (fractions[i + 1] - fractions[i]);
      }
      errors.push_back(curve);
    }
    const int total = 3 + static_cast<int>(random() % 60);
    const double mean = total / (3.0 * units);
    const std::vector<double> spread = SpreadBudget(errors, fractions, mean);
    EXPECT_NEAR(Mean(spread), mean, 1e-12);
    double least = 1e9;
    for (int a = 1; a <= units; ++a) {
      for (int b = 1; b <= units; ++b) {
        const int c = total - a - b;
        if (c < 1 || c > units) continue;
        least = std::min(least, TotalError(errors, fractions,
                                           {a * 1.0 / units, b * 1.0 / units, c * 1.0 / units}));
      }
    }
    EXPECT_LE(TotalError(errors, fractions, spread), least + 1e-12);
  }
}

TEST(SpreadBudgetTest, NoChoiceOfMeasuredLevelsErrsLessWhateverTheCurves) {
  std::mt19937 random(4);
  std::uniform_real_distribution<double> uniform;
  const std::vector<double> fractions = {0.125, 0.25, 0.5};
  for (int round = 0; round < 50; ++round) {
    std::vector<std::vector<double>> errors(4);
    for (std::vector<double>& curve : errors) {
      for (size_t i = 0; i < fractions.size(); ++i) curve.push_back(uniform(random));
      std::sort(curve.rbegin(), curve.rend());
    }
    const double mean = 0.125 + 0.375 * uniform(random);
    const std::vector<double> spread = SpreadBudget(errors, fractions, mean);
    EXPECT_NEAR(Mean(spread), mean, 1e-12);
    EXPECT_THAT(spread, Each(testing::AllOf(testing::Ge(0.125 - 1e-12), testing::Le(0.5 + 1e-12))));
    // The error that the hulls promise, which is what the spread minimises.
    const auto hull = [&](const std::vector<double>& curve, double share) {
      double least = ErrorAt(curve, fractions, share);
      const double bridge = curve[0] + (curve[2] - curve[0]) * (share - 0.125) / 0.375;
      return std::min(least, bridge);
    };
    double promised = 0;
    for (int head = 0; head < 4; ++head) promised += hull(errors[head], spread[head]);
    for (int choice = 0; choice < 81; ++choice) {
      double used = 0;
      double error = 0;
      for (int head = 0, rest = choice; head < 4; ++head, rest /= 3) {
        used += fractions[rest % 3];
        error += errors[head][rest % 3];
      }
      if (used <= 4 * mean) {
        EXPECT_LE(promised, error + 1e-12);
      }
    }
  }
}

TEST(SpreadBudgetTest, AllGetTheMeanBelowTheSmallestMeasuredShare) {
  EXPECT_THAT(SpreadBudget({{3, 1}, {2, 1}}, std::vector<double>{0.25, 1}, 0.125),
              ElementsAre(0.125, 0.125));
}

TEST(SpreadBudgetTest, WhatNobodyNeedsIsSharedInProportion) {
  const std::vector<double> shares =
      SpreadBudget({{0, 0, 0}, {1, 0, 0}}, std::vector<double>{0.25, 0.5, 1}, 0.6);
  EXPECT_NEAR(Mean(shares), 0.6, 1e-12);
  EXPECT_NEAR(shares[1], 2 * shares[0], 1e-12);
}

}  // namespace
}  // namespace winnow
