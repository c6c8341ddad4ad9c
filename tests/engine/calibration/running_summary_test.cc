#include "engine/calibration/running_summary.h"

#include <Eigen/Dense>
#include <random>

#include "gtest/gtest.h"

namespace winnow {
namespace {

constexpr int kSinks = 4;

RowMatrix Random(int rows, int columns, std::mt19937& random) {
  std::normal_distribution<float> normal;
  return RowMatrix::NullaryExpr(rows, columns, [&] { return normal(random); });
}

// The ridge regression of kernels/summary.h by its definition, over centred rows.
Eigen::MatrixXd Slopes(const Eigen::MatrixXd& codes, const Eigen::MatrixXd& values) {
  const Eigen::MatrixXd c = codes.rowwise() - codes.colwise().mean();
  const Eigen::MatrixXd v = values.rowwise() - values.colwise().mean();
  Eigen::MatrixXd covariance = c.transpose() * c / static_cast<double>(c.rows());
  covariance += Eigen::MatrixXd::Identity(c.cols(), c.cols()) * 0.01 * covariance.trace() /
                static_cast<double>(c.cols());
  return covariance.fullPivLu().solve(c.transpose() * v / static_cast<double>(c.rows()));
}

TEST(RunningSummaryTest, HoldsTheWholePiecesBeforeARowWithoutSinks) {
  std::mt19937 random(3);
  const int width = 8;
  const int d = 12;
  RowMatrix codes = Random(300, width, random);
  codes = (codes.array() * 4 + 7).round().max(0).min(15);
  const RowMatrix keys = Random(300, d, random).array() + 5;
  const RowMatrix values = codes * Random(width, d, random) + Random(300, d, random);
  RunningSummary summary(codes, keys, values, kSinks);
  for (const int position : {64, 100, 256, 299}) {
    SCOPED_TRACE(position);
    const int tokens = position < 128 ? 64 : 256;
    const RunningSummary::Estimate& estimate = summary.At(position);
    const auto rows = [&](const RowMatrix& of) {
      return Eigen::MatrixXd(of.middleRows(kSinks, tokens - kSinks).cast<double>());
    };
    const auto distance = [](const auto& ours, const Eigen::MatrixXd& expected) {
      return (ours.template cast<double>() - expected).norm() / expected.norm();
    };
    EXPECT_LT(distance(estimate.mean_code, rows(codes).colwise().mean()), 1e-6);
    EXPECT_LT(distance(estimate.mean_key, rows(keys).colwise().mean()), 1e-6);
    EXPECT_LT(distance(estimate.mean_value, rows(values).colwise().mean()), 1e-6);
    EXPECT_LT(distance(estimate.slopes, Slopes(rows(codes), rows(values))), 1e-6);
  }
}

TEST(RunningSummaryTest, LabelsThatAreAllTheSameSayNothing) {
  std::mt19937 random(3);
  const RowMatrix codes = RowMatrix::Constant(64, 8, 15);
  const RowMatrix values = Random(64, 4, random);
  RunningSummary summary(codes, values, values, kSinks);
  EXPECT_TRUE(summary.At(64).slopes.isZero(0));
  EXPECT_EQ(summary.At(64).slopes.rows(), 8);
}

}  // namespace
}  // namespace winnow
