#include "engine/calibration/selection_error.h"

#include <Eigen/Dense>
#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "engine/calibration/label_basis.h"
#include "engine/calibration/tail_weight.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/float16.h"
#include "tests/engine/calibration/calibrated_model.h"

namespace winnow {
namespace {

using test::Calibrated;
using test::kWindow;

constexpr int kLabelWidth = 8;
constexpr int kDim = 16;
constexpr int kSinks = 4;
constexpr int kRecent = 16;

Eigen::MatrixXd FromHalves(const uint16_t* halves, int rows, int columns) {
  Eigen::MatrixXd matrix(rows, columns);
  for (int t = 0; t < rows; ++t) {
    for (int c = 0; c < columns; ++c) matrix(t, c) = HalfToFloat(halves[t * columns + c]);
  }
  return matrix;
}

Eigen::MatrixXd FromFloats(const float* values, int rows, int columns) {
  Eigen::MatrixXd matrix(rows, columns);
  for (int i = 0; i < rows * columns; ++i) matrix(i / columns, i % columns) = values[i];
  return matrix;
}

// The definition of attention to what labels choose, written out in double for one KV head in one
// window (Backend::Attention, kernels/summary.h).
struct Definition {
  LayerAttention attention;
  Eigen::MatrixXd keys, values;  // [tokens, d]
  Eigen::MatrixXd codes;         // [tokens, width]
  Eigen::MatrixXd labels;        // what the codes stand for

  Definition(const LayerAttention& layer, const CalibrationStatistics::Window::Layer& kept,
             const LabelBasis& basis, const LabelRanges& ranges)
      : attention(layer),
        keys(FromHalves(kept.keys.data(), kWindow, kDim)),
        values(FromHalves(kept.values.data(), kWindow, kDim)) {
    labels = keys * FromFloats(basis.key.data(), kDim, kLabelWidth);
    codes = labels;
    for (int j = 0; j < kLabelWidth; ++j) {
      const double step = (double{ranges.high[j]} - ranges.low[j]) / 15;
      for (int t = 0; t < kWindow; ++t) {
        const double code = std::round((labels(t, j) - ranges.low[j]) / step);
        codes(t, j) = std::clamp(code, 0.0, 15.0);
        labels(t, j) = codes(t, j) * step + ranges.low[j];
      }
    }
  }

  // Which tokens a step at `position` keeps.
  std::vector<int> Selected(const Eigen::MatrixXd& label_queries, int position, int budget) const {
    std::vector<double> telling(position + 1);
    for (int h = 0; h < label_queries.rows(); ++h) {
      std::vector<double> score(position + 1);
      for (int t = 0; t <= position; ++t) {
        score[t] = ScoreScale(attention, kDim) * label_queries.row(h).dot(labels.row(t));
      }
      const double top = *std::max_element(score.begin(), score.end());
      double mass = 0;
      for (const double s : score) mass += std::exp(s - top);
      for (int t = 0; t <= position; ++t) telling[t] += std::exp(score[t] - top) / mass;
    }
    for (int t = 0; t <= position; ++t) {
      if (t < kSinks || position - t < kRecent) telling[t] = 1e9;
    }
    std::vector<int> order(position + 1);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int a, int b) { return telling[a] > telling[b]; });
    order.resize(std::min<size_t>(order.size(), std::max(budget, kSinks + kRecent)));
    return order;
  }

  // Attention to `tokens`, and to the rest up to `position` as the summary estimates it. `q` [d],
  // `label_query` [width].
  Eigen::VectorXd Attend(const Eigen::VectorXd& q, const Eigen::VectorXd& label_query, int position,
                         const std::vector<int>& tokens, double tail_weight) const {
    const double scale = ScoreScale(attention, kDim);
    Eigen::VectorXd sum = Eigen::VectorXd::Zero(kDim);
    double mass = 0;
    std::vector<bool> taken(position + 1);
    for (const int t : tokens) {
      const double plain = scale * keys.row(t).dot(q);
      const double cap = attention.soft_cap;
      const double weight = std::exp(cap > 0 ? cap * std::tanh(plain / cap) : plain);
      sum += weight * values.row(t).transpose();
      mass += weight;
      taken[t] = true;
    }
    const int count = position / 64 * 64 - kSinks;
    if (tail_weight == 0 || count <= 0) return sum / mass;

    const auto mean = [&](const Eigen::MatrixXd& of) {
      return Eigen::RowVectorXd(of.middleRows(kSinks, count).colwise().mean());
    };
    const Eigen::MatrixXd c = codes.middleRows(kSinks, count).rowwise() - mean(codes);
    const Eigen::MatrixXd v = values.middleRows(kSinks, count).rowwise() - mean(values);
    Eigen::MatrixXd covariance = c.transpose() * c / count;
    covariance += Eigen::MatrixXd::Identity(kLabelWidth, kLabelWidth) * 0.01 * covariance.trace() /
                  kLabelWidth;
    const Eigen::MatrixXd slopes = covariance.fullPivLu().solve(c.transpose() * v / count);
    const double of_key = scale * mean(keys).dot(q);
    Eigen::RowVectorXd mean_code = Eigen::RowVectorXd::Zero(kLabelWidth);
    double tail = 0;
    for (int t = 0; t <= position; ++t) {
      if (taken[t]) continue;
      const double weight =
          tail_weight * std::exp(scale * label_query.dot(labels.row(t) - mean(labels)) + of_key);
      mean_code += weight * codes.row(t);
      tail += weight;
    }
    if (tail == 0) return sum / mass;
    mean_code /= tail;
    const Eigen::RowVectorXd value = mean(values) + (mean_code - mean(codes)) * slopes;
    return (sum + tail * value.transpose()) / (mass + tail);
  }
};

struct Case {
  LayerAttention attention;
  std::vector<double> tail_weights;
};

class MeasureSelectionErrorsTest : public testing::TestWithParam<Case> {};

TEST_P(MeasureSelectionErrorsTest, AgreesWithADirectTranscriptionInDouble) {
  const Calibrated calibrated;
  CalibrationStatistics statistics = calibrated.statistics;
  statistics.attention = GetParam().attention;
  const std::vector<double>& tail_weights = GetParam().tail_weights;
  ASSERT_EQ(statistics.windows.size(), 2u);
  ASSERT_THAT(statistics.windows[0].query_positions, testing::SizeIs(7));
  EXPECT_GE(statistics.windows[0].query_positions.front(), kWindow / 2);
  EXPECT_LT(statistics.windows[0].query_positions.back(), kWindow);
  for (int layer = 0; layer < 2; ++layer) {
    const CalibrationStatistics::Head& head = statistics.head(layer, 0);
    LabelBasis basis = ProjectionBasis(head.query_moment, head.key_covariance, kDim, kLabelWidth);
    RoundToHalf(basis);
    const LabelRanges ranges = QuantileRanges(basis, head.keys);
    const GgufFile::Tensor* out = calibrated.model.checkpoint->gguf()->FindTensor(
        layer == 0 ? "blk.0.attn_output.weight" : "blk.1.attn_output.weight");
    ASSERT_NE(out, nullptr);
    const Eigen::MatrixXd projection =
        FromFloats(reinterpret_cast<const float*>(out->data.data()), 32, 32);
    const Eigen::MatrixXd a = FromFloats(basis.query.data(), kDim, kLabelWidth);
    const std::vector<double>& fractions = BudgetFractions();
    Eigen::MatrixXd expected =
        Eigen::MatrixXd::Zero(std::ssize(tail_weights), std::ssize(fractions));
    for (const CalibrationStatistics::Window& window : statistics.windows) {
      const CalibrationStatistics::Window::Layer& kept = window.layers[layer];
      const Definition definition(statistics.attention, kept, basis, ranges);
      for (size_t p = 0; p < window.query_positions.size(); ++p) {
        const int position = window.query_positions[p];
        const Eigen::MatrixXd q = FromFloats(kept.queries.data() + p * 2 * kDim, 2, kDim);
        const Eigen::MatrixXd label_queries = q * a;
        std::vector<int> all(position + 1);
        std::iota(all.begin(), all.end(), 0);
        for (size_t i = 0; i < fractions.size(); ++i) {
          const int budget = static_cast<int>(std::ceil(fractions[i] * (position + 1)));
          const std::vector<int> tokens = definition.Selected(label_queries, position, budget);
          for (size_t w = 0; w < tail_weights.size(); ++w) {
            Eigen::VectorXd change(2 * kDim);
            for (int h = 0; h < 2; ++h) {
              change.segment(h * kDim, kDim) =
                  definition.Attend(q.row(h), label_queries.row(h), position, tokens,
                                    tail_weights[w]) -
                  definition.Attend(q.row(h), label_queries.row(h), position, all, 0);
            }
            expected(w, i) += (projection * change).squaredNorm() / kept.residual_energy / 14;
          }
        }
      }
    }
    const std::vector<std::vector<double>> errors =
        MeasureSelectionErrors(statistics, layer, 0, basis, ranges, ForcedTokens(), tail_weights);
    ASSERT_EQ(errors.size(), tail_weights.size());
    for (size_t w = 0; w < errors.size(); ++w) {
      ASSERT_EQ(errors[w].size(), fractions.size());
      EXPECT_GT(expected(w, 0), 0);
      for (size_t i = 0; i < fractions.size(); ++i) {
        EXPECT_NEAR(errors[w][i], expected(w, i), 1e-2 * expected(w, i) + 1e-9)
            << "tail weight " << tail_weights[w] << ", fraction " << fractions[i];
      }
    }
    if (tail_weights.size() > 1) {
      EXPECT_GT(std::abs(errors[0][0] / errors[1][0] - 1), 0.05);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Layers, MeasureSelectionErrorsTest,
                         testing::Values(Case{LayerAttention{}, {0}},
                                         Case{LayerAttention{.scale = 0.2f, .soft_cap = 1.5f}, {0}},
                                         Case{LayerAttention{}, {0, 0.3, 1}},
                                         Case{LayerAttention{.scale = 0.5f}, {0, 1}}));

// One head of one layer in one window of made-up tokens, and its labels: code j of a token is
// dimension j of its key.
struct MadeUp {
  static constexpr int kTokens = 512;

  MadeUp() : random(5) {
    statistics.layers = statistics.heads = statistics.kv_heads = 1;
    statistics.head_dim = kDim;
    statistics.groups.resize(1);
    statistics.groups[0].output_gram.resize(kDim * kDim);
    for (int c = 0; c < kDim; ++c) statistics.groups[0].output_gram[c * kDim + c] = 1;
    keys.setZero(kTokens, kDim);
    for (int t = 0; t < kTokens; ++t) {
      for (int j = 0; j < kLabelWidth; ++j) keys(t, j) = static_cast<double>(random() % 16);
    }
    basis = {kDim, kLabelWidth, std::vector<float>(kDim * kLabelWidth), {}};
    for (int j = 0; j < kLabelWidth; ++j) basis.query[j * kLabelWidth + j] = 1;
    basis.key = basis.query;
    ranges = {std::vector<float>(kLabelWidth, 0), std::vector<float>(kLabelWidth, 15)};
  }

  Eigen::MatrixXd Normal(int rows, int columns, double deviation) {
    std::normal_distribution<double> normal(0, deviation);
    return Eigen::MatrixXd::NullaryExpr(rows, columns, [&] { return normal(random); });
  }

  // Errors at the smallest fraction at each of TailWeightGrid().
  std::vector<double> Errors() {
    CalibrationStatistics::Window window;
    window.tokens = kTokens;
    window.query_positions = positions;
    window.layers.resize(1);
    window.layers[0].residual_energy = 1;
    for (int t = 0; t < kTokens; ++t) {
      for (int c = 0; c < kDim; ++c) {
        window.layers[0].keys.push_back(FloatToHalf(static_cast<float>(keys(t, c))));
        window.layers[0].values.push_back(FloatToHalf(static_cast<float>(values(t, c))));
      }
    }
    for (Eigen::Index p = 0; p < queries.rows(); ++p) {
      for (int c = 0; c < kDim; ++c) {
        window.layers[0].queries.push_back(static_cast<float>(queries(p, c)));
      }
    }
    statistics.windows = {window};
    std::vector<double> errors;
    for (const std::vector<double>& curve :
         MeasureSelectionErrors(statistics, 0, 0, basis, ranges, {}, TailWeightGrid())) {
      errors.push_back(curve.front());
    }
    return errors;
  }

  std::mt19937 random;
  CalibrationStatistics statistics;
  LabelBasis basis;
  LabelRanges ranges;
  Eigen::MatrixXd keys, values;  // [tokens, d]
  std::vector<int> positions;
  Eigen::MatrixXd queries;  // [positions, d]
};

TEST(MeasureSelectionErrorsOfMadeUpHeadsTest, ExactLabelsThatValuesFollowLetAllOfTheRestCount) {
  MadeUp head;
  head.values = head.keys * head.Normal(kDim, kDim, 0.3);
  for (int position = 256; position < MadeUp::kTokens; position += 17) {
    head.positions.push_back(position);
  }
  head.queries = head.Normal(static_cast<int>(head.positions.size()), kDim, 0.4);
  const std::vector<double> errors = head.Errors();
  EXPECT_LT(errors.back(), 0.01 * errors.front());
  EXPECT_NEAR(WeightOfLeastError(errors, TailWeightGrid()), 1, 0.05);
}

TEST(MeasureSelectionErrorsOfMadeUpHeadsTest, NoiseInTheLabelsOfAHeadThatLooksUpLetsNothingCount) {
  MadeUp head;
  // Queries have nothing where keys have their labels, but ask labels for it nevertheless: scores
  // by labels deviate by some 4 from the true ones, which are all 0 but for the token looked up.
  head.basis.query.assign(head.basis.query.size(), 0);
  for (int j = 0; j < kLabelWidth; ++j) {
    head.basis.query[(kLabelWidth + j) * kLabelWidth + j] = 1;
  }
  for (int position = 500; position < MadeUp::kTokens; ++position) {
    head.positions.push_back(position);
  }
  head.queries = Eigen::MatrixXd::Zero(12, kDim);
  head.queries.rightCols(kLabelWidth).setConstant(1.2);
  head.keys.row(500).tail(kLabelWidth).setConstant(3.3);  // a score of 8, among the most recent
  head.values = head.Normal(MadeUp::kTokens, kDim, 1);
  const std::vector<double> errors = head.Errors();
  EXPECT_GT(errors.back(), 4 * errors.front());
  EXPECT_LT(WeightOfLeastError(errors, TailWeightGrid()), 0.05);
}

TEST(MeasureSelectionErrorsOfMadeUpHeadsTest, WithWeight0TheRestIsLeftOut) {
  MadeUp head;
  head.values = head.Normal(MadeUp::kTokens, kDim, 1);
  head.positions = {300, 400, 511};
  head.queries = head.Normal(3, kDim, 0.4);
  const double with_others = head.Errors().front();
  const double alone = MeasureSelectionErrors(head.statistics, 0, 0, head.basis, head.ranges, {},
                                              std::vector<double>{0})[0][0];
  EXPECT_NEAR(with_others, alone, 1e-6 * alone);
}

TEST(MeasureSelectionErrorsOfMadeUpHeadsTest, EstimatesThatAreFarTooLargeStayNumbers) {
  MadeUp head;
  head.keys *= 20;
  head.ranges.high.assign(kLabelWidth, 300);
  head.values = head.Normal(MadeUp::kTokens, kDim, 1);
  head.positions = {511};
  head.queries = head.Normal(1, kDim, 0.1);
  for (float& number : head.basis.query) number *= -400;  // labels say the opposite of keys
  for (const double error : head.Errors()) {
    EXPECT_TRUE(std::isfinite(error));
    EXPECT_GT(error, 0);
  }
}

}  // namespace
}  // namespace winnow
