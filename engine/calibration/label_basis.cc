#include "engine/calibration/label_basis.h"

#include <Eigen/SVD>
#include <algorithm>
#include <cassert>
#include <cmath>
#include <numeric>

#include "engine/calibration/row_matrix.h"
#include "engine/calibration/symmetric_roots.h"
#include "kernels/float16.h"

namespace winnow {
namespace {

constexpr double kLowQuantile = 0.002;
constexpr double kHighQuantile = 0.998;

// The first columns of `inverse` times `vectors`, as many as there are scales, each times its own.
RowMatrix FirstColumns(const Eigen::MatrixXd& inverse, const Eigen::MatrixXd& vectors,
                       const Eigen::VectorXd& scale) {
  return (inverse * vectors.leftCols(scale.size()) * scale.asDiagonal()).cast<float>();
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
  const SymmetricRoots query = MakeSymmetricRoots(query_moment, head_dim);
  const SymmetricRoots key = MakeSymmetricRoots(key_covariance, head_dim);
  // Jacobi's method and not BDCSVD, which takes 20 s to compile: square matrices need nothing of
  // Eigen's before it.
  const Eigen::JacobiSVD<Eigen::MatrixXd, Eigen::NoQRPreconditioner> svd(
      query.root * key.root, Eigen::ComputeFullU | Eigen::ComputeFullV);
  const Eigen::VectorXd scale = svd.singularValues().head(width).cwiseSqrt();
  const RowMatrix a = FirstColumns(query.inverse, svd.matrixU(), scale);
  const RowMatrix b = FirstColumns(key.inverse, svd.matrixV(), scale);
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
