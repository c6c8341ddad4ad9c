#include "engine/calibration/label_basis.h"

#include <Eigen/SVD>
#include <cmath>
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/float16.h"

namespace winnow {
namespace {

using testing::ElementsAre;

std::vector<double> ToVector(const Eigen::MatrixXd& matrix) {
  return {matrix.data(), matrix.data() + matrix.size()};
}

// [head_dim, width] of a basis in double.
Eigen::MatrixXd Matrix(const LabelBasis& basis, const std::vector<float>& values) {
  Eigen::MatrixXd matrix(basis.head_dim, basis.width);
  for (int c = 0; c < basis.head_dim; ++c) {
    for (int j = 0; j < basis.width; ++j) matrix(c, j) = values[c * basis.width + j];
  }
  return matrix;
}

// Rows with a decaying spectrum in random directions and a large common offset, as keys have.
Eigen::MatrixXd Structured(int rows, int d, double offset, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  Eigen::MatrixXd noise(rows, d);
  for (double& value : noise.reshaped()) value = normal(random);
  Eigen::MatrixXd mix(d, d);
  for (double& value : mix.reshaped()) value = normal(random);
  for (int c = 0; c < d; ++c) mix.row(c) *= std::exp(-0.4 * c);
  return ((noise * mix).array() + offset).matrix();
}

// The best approximation of rank r of all scores between the queries and the centred keys, in mean
// square, is the truncated singular value decomposition of the score matrix itself (Eckart and
// Young): no roots, no covariances.
TEST(ProjectionBasisTest, ScoresAreTheBestApproximationOfTheirRank) {
  const int d = 12;
  const Eigen::MatrixXd q = Structured(60, d, 0.5, 1);
  const Eigen::MatrixXd k = Structured(60, d, 3, 2);
  const Eigen::MatrixXd centred = k.rowwise() - k.colwise().mean();
  const Eigen::MatrixXd query_moment = q.transpose() * q / 60;
  const Eigen::MatrixXd key_covariance = centred.transpose() * centred / 60;
  const Eigen::MatrixXd scores = q * centred.transpose();  // square: what follows takes no other
  const Eigen::JacobiSVD<Eigen::MatrixXd, Eigen::NoQRPreconditioner> svd(
      scores, Eigen::ComputeFullU | Eigen::ComputeFullV);
  for (const int width : {1, 4, 8}) {
    const LabelBasis basis =
        ProjectionBasis(ToVector(query_moment), ToVector(key_covariance), d, width);
    const Eigen::MatrixXd best = svd.matrixU().leftCols(width) *
                                 svd.singularValues().head(width).asDiagonal() *
                                 svd.matrixV().leftCols(width).transpose();
    const Eigen::MatrixXd ours =
        (q * Matrix(basis, basis.query)) * (centred * Matrix(basis, basis.key)).transpose();
    EXPECT_LT((ours - best).norm(), 1e-4 * scores.norm()) << width;
  }
}

TEST(ProjectionBasisTest, EachLabelDimensionCarriesAsMuchInQueriesAsInKeys) {
  const int d = 12;
  const Eigen::MatrixXd q = Structured(60, d, 0.5, 1);
  Eigen::MatrixXd k = Structured(50, d, 3, 2);
  k.rowwise() -= k.colwise().mean().eval();
  const LabelBasis basis =
      ProjectionBasis(ToVector(q.transpose() * q / 60), ToVector(k.transpose() * k / 50), d, 8);
  const Eigen::MatrixXd a = q * Matrix(basis, basis.query);
  const Eigen::MatrixXd z = k * Matrix(basis, basis.key);
  double before = 1e300;
  for (int j = 0; j < 8; ++j) {
    const double in_queries = a.col(j).squaredNorm() / 60;
    const double in_keys = z.col(j).squaredNorm() / 50;
    EXPECT_NEAR(in_queries, in_keys, 1e-3 * in_keys);
    EXPECT_LE(in_keys, before * (1 + 1e-3));
    before = in_keys;
  }
}

TEST(ProjectionBasisTest, DeadDirectionsAndDeadHeadsGiveFiniteNumbers) {
  const int d = 8;
  Eigen::MatrixXd lame = Eigen::MatrixXd::Identity(d, d);
  lame(3, 3) = 0;
  for (const Eigen::MatrixXd& covariance : {lame, Eigen::MatrixXd(Eigen::MatrixXd::Zero(d, d))}) {
    LabelBasis basis = ProjectionBasis(ToVector(covariance), ToVector(covariance), d, d);
    RoundToHalf(basis);
    for (const float value : basis.query) EXPECT_TRUE(std::isfinite(value));
    for (const float value : basis.key) EXPECT_TRUE(std::isfinite(value));
  }
}

TEST(RankChannelsTest, EachRankingPicksWhatItsFormulaSays) {
  CalibrationStatistics::Head head;
  const Eigen::Vector4d query_squares(9, 1, 4, 2);
  const Eigen::Vector4d key_variances(1, 8, 3, 0.5);
  head.query_moment = ToVector(query_squares.asDiagonal().toDenseMatrix().array() + 0.1);
  head.key_covariance = ToVector(key_variances.asDiagonal().toDenseMatrix().array() + 0.01);
  head.query_magnitude = {3, 1, 2, 4};
  head.key_magnitude = {5, 2, 1, 7};
  head.product_magnitude = {1, 4, 4, 2};
  // 9.1 1.01, 1.1 8.01, 4.1 3.01, 2.1 0.51 = 9.19, 8.81, 12.34, 1.07
  EXPECT_THAT(RankChannels(head, "qk-centred"), ElementsAre(2, 0, 1, 3));
  EXPECT_THAT(RankChannels(head, "qk"), ElementsAre(1, 2, 3, 0));
  EXPECT_THAT(RankChannels(head, "q"), ElementsAre(3, 0, 2, 1));
  EXPECT_THAT(RankChannels(head, "k"), ElementsAre(3, 0, 1, 2));
}

TEST(ChannelBasisTest, PicksTheFirstChannelsOfARanking) {
  const LabelBasis basis = ChannelBasis(std::vector<int>{2, 0, 1}, 2);
  EXPECT_THAT(basis.key, ElementsAre(0, 1, 0, 0, 1, 0));
  EXPECT_EQ(basis.query, basis.key);
}

TEST(QuantileRangesTest, CutTwoTenthsOfAPercentAtEachEnd) {
  // 1001 keys of two channels in shuffled order: 0 to 1000, and 5 everywhere.
  std::vector<uint16_t> keys;
  for (int i = 0; i <= 1000; ++i) {
    keys.push_back(FloatToHalf(static_cast<float>(i * 5 % 1001)));
    keys.push_back(FloatToHalf(5));
  }
  const LabelRanges ranges = QuantileRanges(ChannelBasis(std::vector<int>{0, 1}, 2), keys);
  EXPECT_EQ(ranges.low[0], 2);
  EXPECT_EQ(ranges.high[0], 998);
  EXPECT_EQ(ranges.low[1], 5);
  EXPECT_GT(ranges.high[1], 5);
}

TEST(QuantileRangesTest, InterpolatesBetweenSamples) {
  std::vector<uint16_t> keys;
  for (const float value : {8.0f, 0.0f}) keys.push_back(FloatToHalf(value));
  const LabelRanges ranges = QuantileRanges(ChannelBasis(std::vector<int>{0}, 1), keys);
  EXPECT_EQ(ranges.low[0], HalfToFloat(FloatToHalf(0.016f)));
  EXPECT_EQ(ranges.high[0], HalfToFloat(FloatToHalf(7.984f)));
}

}  // namespace
}  // namespace winnow
