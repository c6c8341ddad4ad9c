#include "engine/eval/linear_fit.h"

#include <random>

#include "gtest/gtest.h"

namespace winnow {
namespace {

using RowMajor = LinearMap::RowMajor;

RowMajor Random(int rows, int columns, std::mt19937& random) {
  std::normal_distribution<float> normal;
  RowMajor matrix(rows, columns);
  for (Eigen::Index i = 0; i < matrix.size(); ++i) matrix.data()[i] = normal(random);
  return matrix;
}

TEST(LinearFitTest, FindsALinearRelationAgain) {
  std::mt19937 random(1);
  const RowMajor weights = Random(5, 12, random);
  const RowMajor bias = Random(1, 12, random);
  LinearFit fit(5, 12);
  for (int piece = 0; piece < 4; ++piece) {
    const RowMajor x = Random(30, 5, random);
    RowMajor y = x * weights;
    y.rowwise() += bias.row(0);
    fit.Add(x, y);
  }
  const LinearMap map = fit.Solve(1e-9);
  const RowMajor x = Random(10, 5, random);
  RowMajor expected = x * weights;
  expected.rowwise() += bias.row(0);
  EXPECT_LT((map.Run(x) - expected).cwiseAbs().maxCoeff(), 1e-4);
}

// No other weights come closer: the residual of the fit is orthogonal to all inputs.
TEST(LinearFitTest, LeavesAResidualThatInputsSayNothingOf) {
  std::mt19937 random(2);
  const RowMajor x = Random(200, 6, random);
  const RowMajor y = Random(200, 3, random);
  LinearFit fit(6, 3);
  fit.Add(x, y);
  const RowMajor residual = y - fit.Solve(1e-9).Run(x);
  EXPECT_LT((x.transpose() * residual).cwiseAbs().maxCoeff(), 1e-2);
  EXPECT_LT(residual.colwise().sum().cwiseAbs().maxCoeff(), 1e-2);
}

TEST(LinearFitTest, UnitsOfInputsDoNotMatter) {
  std::mt19937 random(3);
  const RowMajor x = Random(50, 4, random);
  const RowMajor y = Random(50, 2, random);
  const Eigen::RowVectorXf units = Eigen::RowVectorXf{{1000, 0.001f, 1, 32}};
  const RowMajor scaled = x * units.asDiagonal();
  LinearFit fit(4, 2);
  fit.Add(x, y);
  LinearFit of_scaled(4, 2);
  of_scaled.Add(scaled, y);
  EXPECT_LT((fit.Solve(0.1).Run(x) - of_scaled.Solve(0.1).Run(scaled)).cwiseAbs().maxCoeff(), 1e-4);
}

// With more inputs than pairs, and one that is always 0, there are many maps: the ridge picks one.
TEST(LinearFitTest, HasAnAnswerForTooFewPairs) {
  std::mt19937 random(4);
  RowMajor x = Random(3, 8, random);
  x.col(2).setZero();
  const RowMajor y = Random(3, 2, random);
  LinearFit fit(8, 2);
  fit.Add(x, y);
  const LinearMap map = fit.Solve(1e-4);
  EXPECT_LT((map.Run(x) - y).cwiseAbs().maxCoeff(), 0.05);
  RowMajor other = x;
  other.col(2).setConstant(100);
  EXPECT_EQ((map.Run(other) - map.Run(x)).cwiseAbs().maxCoeff(), 0);
}

}  // namespace
}  // namespace winnow
