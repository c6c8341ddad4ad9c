#include "engine/calibration/label_basis.h"

#include <Eigen/Eigenvalues>
#include <Eigen/SVD>
#include <algorithm>
#include <cassert>
#include <cmath>
#include <numeric>

#include "kernels/float16.h"

namespace winnow {
namespace {

using RowMatrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

constexpr double kDamping = 1e-8;              // smallest eigenvalue, of the largest
constexpr double kSmallestEigenvalue = 1e-12;  // of a head whose queries or keys are all zero
constexpr double kLowQuantile = 0.002;
constexpr double kHighQuantile = 0.998;

// The symmetric square root of a covariance and that root's inverse, damped.
struct Roots {
  Eigen::MatrixXd root;
  Eigen::MatrixXd inverse;
};

Roots SymmetricRoots(std::span<const double> covariance, int d) {
  const Eigen::Map<const Eigen::MatrixXd> matrix(covariance.data(), d, d);
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(matrix);
  const double floor = std::max(solver.eigenvalues().maxCoeff() * kDamping, kSmallestEigenvalue);
  const Eigen::VectorXd roots = solver.eigenvalues().cwiseMax(floor).cwiseSqrt();
  const Eigen::MatrixXd& v = solver.eigenvectors();
  return {v * roots.asDiagonal() * v.transpose(),
          v * roots.cwiseInverse().asDiagonal() * v.transpose()};
}

float ThroughHalf(double value) { return HalfToFloat(FloatToHalf(static_cast<float>(value))); }

// The q-quantile of `values`, which are reordered: linear between the two nearest.
double Quantile(std::vector<float>& values, double q) {
  const double place = q * static_cast<double>(values.size() - 1);
  const auto below = static_cast<size_t>(place);
  const auto at = values.begin() + static_cast<int64_t>(below);
  std::nth_element(values.begin(), at, values.end());
  if (below + 1 == values.size()) return *at;
  const float above = *std::min_element(at + 1, values.end());
  return *at + (place - static_cast<double>(below)) * (above - *at);
}

}  // namespace

LabelBasis ProjectionBasis(std::span<const double> query_moment,
                           std::span<const double> key_covariance, int head_dim, int width) {
  const Roots query = SymmetricRoots(query_moment, head_dim);
  const Roots key = SymmetricRoots(key_covariance, head_dim);
  const Eigen::BDCSVD<Eigen::MatrixXd> svd(query.root * key.root,
                                           Eigen::ComputeThinU | Eigen::ComputeThinV);
  const Eigen::VectorXd scale = svd.singularValues().head(width).cwiseSqrt();
  const RowMatrix a =
      (query.inverse * svd.matrixU().leftCols(width) * scale.asDiagonal()).cast<float>();
  const RowMatrix b =
      (key.inverse * svd.matrixV().leftCols(width) * scale.asDiagonal()).cast<float>();
  LabelBasis basis;
  basis.head_dim = head_dim;
  basis.width = width;
  basis.query.assign(a.data(), a.data() + a.size());
  basis.key.assign(b.data(), b.data() + b.size());
  return basis;
}

std::vector<int> RankChannels(const CalibrationStatistics::Head& head, const std::string& ranking) {
  const size_t d = head.key_magnitude.size();
  std::vector<double> telling;
  if (ranking == "q") {
    telling = head.query_magnitude;
  } else if (ranking == "k") {
    telling = head.key_magnitude;
  } else if (ranking == "qk") {
    telling = head.product_magnitude;
  } else {
    assert(ranking == "qk-centred");
    for (size_t c = 0; c < d; ++c) {
      telling.push_back(head.query_moment[c * d + c] * head.key_covariance[c * d + c]);
    }
  }
  std::vector<int> channels(d);
  std::iota(channels.begin(), channels.end(), 0);
  std::stable_sort(channels.begin(), channels.end(),
                   [&](int a, int b) { return telling[a] > telling[b]; });
  return channels;
}

LabelBasis ChannelBasis(std::span<const int> ranked, int width) {
  LabelBasis basis;
  basis.head_dim = static_cast<int>(ranked.size());
  basis.width = width;
  basis.query.resize(ranked.size() * width);
  for (int j = 0; j < width; ++j) basis.query[static_cast<size_t>(ranked[j]) * width + j] = 1;
  basis.key = basis.query;
  return basis;
}

void RoundToHalf(LabelBasis& basis) {
  for (float& value : basis.query) value = ThroughHalf(value);
  for (float& value : basis.key) value = ThroughHalf(value);
}

LabelRanges QuantileRanges(const LabelBasis& basis, std::span<const uint16_t> keys) {
  const auto samples = static_cast<int64_t>(keys.size()) / basis.head_dim;
  RowMatrix k(samples, basis.head_dim);
  std::transform(keys.begin(), keys.end(), k.data(), HalfToFloat);
  const Eigen::Map<const RowMatrix> b(basis.key.data(), basis.head_dim, basis.width);
  const Eigen::MatrixXf labels = k * b;  // column-major: one label dimension is contiguous
  LabelRanges ranges;
  for (int j = 0; j < basis.width; ++j) {
    std::vector<float> values(labels.col(j).data(), labels.col(j).data() + samples);
    const float low = ThroughHalf(Quantile(values, kLowQuantile));
    float high = ThroughHalf(Quantile(values, kHighQuantile));
    // fp16 tells numbers apart that differ by 2^-9 of their size.
    const float least = std::max(std::abs(low) * 0x1p-9f, 0x1p-14f);
    if (!(high > low)) high = ThroughHalf(low + least);
    ranges.low.push_back(low);
    ranges.high.push_back(high);
  }
  return ranges;
}

}  // namespace winnow
