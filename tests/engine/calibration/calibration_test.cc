#include "engine/calibration/calibration.h"

#include <Eigen/Dense>
#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <numeric>
#include <random>

#include "engine/cache/kv_pools.h"
#include "engine/calibration/label_basis.h"
#include "engine/model/kv_layout.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/float16.h"
#include "kernels/step_batch_builder.h"
#include "tests/engine/calibration/random_tiny_model.h"

namespace winnow {
namespace {

using test::RandomTinyModel;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr int kWindow = 120;
constexpr int kLabelWidth = 8;

std::vector<std::vector<int32_t>> RandomWindows(int count) {
  std::mt19937 random(5);
  std::vector<std::vector<int32_t>> windows(count);
  for (std::vector<int32_t>& window : windows) {
    for (int t = 0; t < kWindow; ++t) window.push_back(static_cast<int32_t>(random() % 4));
  }
  return windows;
}

std::vector<KvShape> Layout(const ModelConfig& config) {
  return KvLayout(config, {.blocks = 8, .block_tokens = 16});
}

// A tiny random model, its statistics over three windows, and what its layers computed.
class Calibrated {
 public:
  explicit Calibrated(const std::string& architecture = "llama")
      : Calibrated(TinyModel::Of(architecture)) {}

  explicit Calibrated(const TinyModel& shapes) : model(11, shapes, 0.5f) {
    backend_ = CreateCpuBackend({.threads = 1, .f32_matmul = true});
    auto pools = KvPools::Allocate(*backend_, Layout(model.config));
    EXPECT_TRUE(pools.ok()) << pools.status();
    pools_ = *std::move(pools);
    auto loaded = Transformer::Load(model.checkpoint->weights(), model.config, *backend_, *pools_,
                                    {.max_step_tokens = kWindow});
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    transformer_ = *std::move(loaded);
    auto gathered = Gather();
    EXPECT_TRUE(gathered.ok()) << gathered.status();
    statistics = *std::move(gathered);
  }

  absl::StatusOr<CalibrationStatistics> Gather() {
    GatherOptions options;
    options.measured_windows = 2;
    options.queries_per_window = 7;
    options.threads = 2;
    return GatherStatistics(*transformer_, *backend_, *model.checkpoint, RandomWindows(3), options,
                            [&](double done) { progress.push_back(done); });
  }

  // Queries, keys, values and residuals of every layer of one window, in double.
  struct Seen {
    Eigen::MatrixXd qkv;  // [tokens, 4 heads of 16]
    Eigen::MatrixXd residual;
  };
  std::vector<Seen> Observe(const std::vector<int32_t>& tokens) {
    std::vector<Seen> seen(model.config.layers);
    transformer_->SetLayerObserver([&](int layer, const Tensor& qkv, const Tensor& residual) {
      seen[layer] = {ToEigen(qkv), ToEigen(residual)};
    });
    StepBatchBuilder rows(pools_->groups());
    rows.BeginSequence(std::vector<int32_t>{7, 6, 5, 4, 3, 2, 1, 0});
    for (size_t t = 0; t < tokens.size(); ++t) {
      rows.AddRow(tokens[t], static_cast<int32_t>(t), {}, /*wants_logits=*/false);
    }
    EXPECT_TRUE(transformer_->Forward(rows.Build(), {}, {}).ok());
    transformer_->SetLayerObserver(nullptr);
    return seen;
  }

  RandomTinyModel model;
  CalibrationStatistics statistics;
  std::vector<double> progress;

 private:
  static Eigen::MatrixXd ToEigen(const Tensor& tensor) {
    Eigen::MatrixXd matrix(tensor.rows, tensor.columns);
    for (int64_t t = 0; t < tensor.rows; ++t) {
      for (int64_t c = 0; c < tensor.columns; ++c) matrix(t, c) = tensor.Row(t)[c];
    }
    return matrix;
  }

  std::unique_ptr<Backend> backend_;
  std::unique_ptr<KvPools> pools_;
  std::unique_ptr<Transformer> transformer_;
};

double Difference(const std::vector<double>& ours, const Eigen::MatrixXd& expected) {
  const Eigen::Map<const Eigen::MatrixXd> matrix(ours.data(), expected.rows(), expected.cols());
  return (matrix - expected).norm() / expected.norm();
}

TEST(GatherStatisticsTest, MomentsAreThoseOfAllTokensInDouble) {
  Calibrated calibrated;
  const int d = 16;
  std::vector<Eigen::MatrixXd> all(2, Eigen::MatrixXd(0, 64));
  for (const std::vector<int32_t>& window : RandomWindows(3)) {
    const auto seen = calibrated.Observe(window);
    for (int layer = 0; layer < 2; ++layer) {
      Eigen::MatrixXd joined(all[layer].rows() + kWindow, 64);
      joined << all[layer], seen[layer].qkv;
      all[layer] = joined;
    }
  }
  for (int layer = 0; layer < 2; ++layer) {
    const Eigen::MatrixXd q0 = all[layer].middleCols(0, d);
    const Eigen::MatrixXd q1 = all[layer].middleCols(d, d);
    const Eigen::MatrixXd k = all[layer].middleCols(2 * d, d);
    const double tokens = 3 * kWindow;
    const Eigen::MatrixXd centred = k.rowwise() - k.colwise().mean();
    const CalibrationStatistics::Head& head = calibrated.statistics.head(layer, 0);
    EXPECT_LT(
        Difference(head.query_moment, (q0.transpose() * q0 + q1.transpose() * q1) / (2 * tokens)),
        1e-5);
    EXPECT_LT(Difference(head.key_covariance, centred.transpose() * centred / tokens), 1e-5);
    EXPECT_LT(Difference(head.query_magnitude,
                         (q0.cwiseAbs() + q1.cwiseAbs()).colwise().mean().transpose() / 2),
              1e-5);
    EXPECT_LT(Difference(head.key_magnitude, k.cwiseAbs().colwise().mean().transpose()), 1e-5);
    EXPECT_EQ(head.keys.size(), static_cast<size_t>(3 * kWindow * d));
    EXPECT_EQ(head.keys[5 * d + 3], FloatToHalf(static_cast<float>(k(5, 3))));
    // Causal pairs are sampled: compare with all of them, loosely.
    Eigen::VectorXd products = Eigen::VectorXd::Zero(d);
    double pairs = 0;
    for (int w = 0; w < 3; ++w) {
      for (int t = 0; t < kWindow; ++t) {
        const Eigen::MatrixXd past = k.middleRows(w * kWindow, t + 1).cwiseAbs();
        for (const Eigen::MatrixXd* q : {&q0, &q1}) {
          products += past.colwise().mean().transpose().cwiseProduct(
              q->row(w * kWindow + t).cwiseAbs().transpose());
          pairs += 1;
        }
      }
    }
    EXPECT_LT(Difference(head.product_magnitude, products / pairs), 0.1);
  }
}

TEST(GatherStatisticsTest, ReportsProgressUpToTheEnd) {
  const Calibrated calibrated;
  EXPECT_EQ(calibrated.progress.size(), 6u);
  EXPECT_TRUE(std::is_sorted(calibrated.progress.begin(), calibrated.progress.end()));
  EXPECT_DOUBLE_EQ(calibrated.progress.back(), 1);
}

TEST(GatherStatisticsTest, AModelThatComputesNoNumbersIsRefused) {
  RandomTinyModel broken(11, "llama", std::numeric_limits<float>::infinity());
  const auto backend = CreateCpuBackend({.threads = 1, .f32_matmul = true});
  const auto pools = KvPools::Allocate(*backend, Layout(broken.config));
  ASSERT_TRUE(pools.ok()) << pools.status();
  auto loaded = Transformer::Load(broken.checkpoint->weights(), broken.config, *backend, **pools,
                                  {.max_step_tokens = kWindow});
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const auto gathered =
      GatherStatistics(**loaded, *backend, *broken.checkpoint, RandomWindows(1), {}, nullptr);
  EXPECT_EQ(gathered.status().code(), absl::StatusCode::kInvalidArgument);
}

// Design of the selection, written out in double for one query position: which tokens a step at
// `position` keeps, given labels that are already what their codes stand for.
std::vector<int> Selected(const LayerAttention& attention, const Eigen::MatrixXd& label_queries,
                          const Eigen::MatrixXd& labels, int position, int budget) {
  std::vector<double> telling(position + 1);
  for (int h = 0; h < label_queries.rows(); ++h) {
    std::vector<double> score(position + 1);
    for (int t = 0; t <= position; ++t) {
      score[t] = ScoreScale(attention, 16) * label_queries.row(h).dot(labels.row(t));
    }
    const double top = *std::max_element(score.begin(), score.end());
    double mass = 0;
    for (const double s : score) mass += std::exp(s - top);
    for (int t = 0; t <= position; ++t) telling[t] += std::exp(score[t] - top) / mass;
  }
  for (int t = 0; t <= position; ++t) {
    if (t < 4 || position - t < 16) telling[t] = 1e9;
  }
  std::vector<int> order(position + 1);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int a, int b) { return telling[a] > telling[b]; });
  order.resize(std::min<size_t>(order.size(), std::max(budget, 20)));
  return order;
}

Eigen::VectorXd Attend(const LayerAttention& attention, const Eigen::VectorXd& q,
                       const Eigen::MatrixXd& k, const Eigen::MatrixXd& v,
                       const std::vector<int>& tokens) {
  const auto score = [&](int t) {
    const double plain = ScoreScale(attention, 16) * k.row(t).dot(q);
    const double cap = attention.soft_cap;
    return cap > 0 ? cap * std::tanh(plain / cap) : plain;
  };
  double top = -1e300;
  for (const int t : tokens) top = std::max(top, score(t));
  Eigen::VectorXd sum = Eigen::VectorXd::Zero(v.cols());
  double mass = 0;
  for (const int t : tokens) {
    const double weight = std::exp(score(t) - top);
    sum += weight * v.row(t).transpose();
    mass += weight;
  }
  return sum / mass;
}

Eigen::MatrixXd FromHalves(const uint16_t* halves, int rows, int columns) {
  Eigen::MatrixXd matrix(rows, columns);
  for (int t = 0; t < rows; ++t) {
    for (int c = 0; c < columns; ++c) matrix(t, c) = HalfToFloat(halves[t * columns + c]);
  }
  return matrix;
}

class MeasureSelectionErrorsTest : public testing::TestWithParam<LayerAttention> {};

TEST_P(MeasureSelectionErrorsTest, AgreesWithADirectTranscriptionInDouble) {
  const Calibrated calibrated;
  CalibrationStatistics statistics = calibrated.statistics;
  statistics.attention = GetParam();
  ASSERT_EQ(statistics.windows.size(), 2u);
  ASSERT_THAT(statistics.windows[0].query_positions, testing::SizeIs(7));
  EXPECT_GE(statistics.windows[0].query_positions.front(), kWindow / 2);
  EXPECT_LT(statistics.windows[0].query_positions.back(), kWindow);
  const int d = 16;
  for (int layer = 0; layer < 2; ++layer) {
    const CalibrationStatistics::Head& head = statistics.head(layer, 0);
    LabelBasis basis = ProjectionBasis(head.query_moment, head.key_covariance, d, kLabelWidth);
    RoundToHalf(basis);
    const LabelRanges ranges = QuantileRanges(basis, head.keys);
    const GgufFile::Tensor* out = calibrated.model.checkpoint->gguf()->FindTensor(
        layer == 0 ? "blk.0.attn_output.weight" : "blk.1.attn_output.weight");
    ASSERT_NE(out, nullptr);
    Eigen::MatrixXd projection(32, 32);
    for (int i = 0; i < 32 * 32; ++i) {
      projection(i / 32, i % 32) = reinterpret_cast<const float*>(out->data.data())[i];
    }
    Eigen::MatrixXd a(d, kLabelWidth);
    Eigen::MatrixXd b(d, kLabelWidth);
    for (int i = 0; i < d * kLabelWidth; ++i) {
      a(i / kLabelWidth, i % kLabelWidth) = basis.query[i];
      b(i / kLabelWidth, i % kLabelWidth) = basis.key[i];
    }
    const std::vector<double>& fractions = BudgetFractions();
    std::vector<double> expected(fractions.size());
    for (const CalibrationStatistics::Window& window : statistics.windows) {
      const CalibrationStatistics::Window::Layer& kept = window.layers[layer];
      const Eigen::MatrixXd k = FromHalves(kept.keys.data(), kWindow, d);
      const Eigen::MatrixXd v = FromHalves(kept.values.data(), kWindow, d);
      Eigen::MatrixXd labels = k * b;
      for (int j = 0; j < kLabelWidth; ++j) {
        const double step = (double{ranges.high[j]} - ranges.low[j]) / 15;
        for (int t = 0; t < kWindow; ++t) {
          const double code = std::round((labels(t, j) - ranges.low[j]) / step);
          labels(t, j) = std::clamp(code, 0.0, 15.0) * step + ranges.low[j];
        }
      }
      for (size_t p = 0; p < window.query_positions.size(); ++p) {
        const int position = window.query_positions[p];
        Eigen::MatrixXd q(2, d);
        for (int i = 0; i < 2 * d; ++i) q(i / d, i % d) = kept.queries[p * 2 * d + i];
        std::vector<int> all(position + 1);
        std::iota(all.begin(), all.end(), 0);
        for (size_t i = 0; i < fractions.size(); ++i) {
          const int budget = static_cast<int>(std::ceil(fractions[i] * (position + 1)));
          const std::vector<int> tokens = Selected(GetParam(), q * a, labels, position, budget);
          Eigen::VectorXd change(2 * d);
          for (int h = 0; h < 2; ++h) {
            change.segment(h * d, d) = Attend(GetParam(), q.row(h), k, v, tokens) -
                                       Attend(GetParam(), q.row(h), k, v, all);
          }
          expected[i] += (projection * change).squaredNorm() / kept.residual_energy / 14;
        }
      }
    }
    const std::vector<double> errors =
        MeasureSelectionErrors(statistics, layer, 0, basis, ranges, ForcedTokens());
    ASSERT_EQ(errors.size(), expected.size());
    EXPECT_GT(expected[0], 0);
    for (size_t i = 0; i < errors.size(); ++i) {
      EXPECT_NEAR(errors[i], expected[i], 1e-2 * expected[i] + 1e-9) << "fraction " << fractions[i];
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Layers, MeasureSelectionErrorsTest,
                         testing::Values(LayerAttention{},
                                         LayerAttention{.scale = 0.2f, .soft_cap = 1.5f}));

TEST(GatherStatisticsTest, TheResidualIsTheLayersInputInTheSecondHalf) {
  Calibrated calibrated;
  // Two of three windows are measured: the first and the last.
  const auto windows = RandomWindows(3);
  const auto seen = calibrated.Observe(windows[0]);
  for (int layer = 0; layer < 2; ++layer) {
    const Eigen::MatrixXd half = seen[layer].residual.bottomRows(kWindow / 2);
    EXPECT_NEAR(calibrated.statistics.windows[0].layers[layer].residual_energy,
                half.rowwise().squaredNorm().mean(), 1e-5 * half.rowwise().squaredNorm().mean());
  }
}

TEST(MakeLabelFileTest, FilesOfAllKindsFitTheModelAgain) {
  for (const char* architecture : {"llama", "qwen2"}) {
    Calibrated calibrated(architecture);
    for (const std::string basis : {"projection", "channels"}) {
      for (const bool by_head : {true, false}) {
        CalibrationOptions options;
        options.basis = basis;
        options.width = kLabelWidth;
        options.budgets_by_head = by_head;
        options.sparsity = 3;
        const auto made = MakeLabelFile(calibrated.statistics, options, nullptr);
        ASSERT_TRUE(made.ok()) << made.status();
        const TemporaryFile file({});
        ASSERT_TRUE(made->file.Write(file.path()).ok());
        const auto read = LabelFile::Read(file.path(), *calibrated.model.checkpoint);
        ASSERT_TRUE(read.ok()) << read.status();
        EXPECT_EQ(read->calibrated_context, kWindow);
        EXPECT_EQ(read->ranking, basis == "channels" ? "qk-centred" : "");
        ASSERT_EQ(read->layers.size(), 2u);
        EXPECT_EQ(read->layers[1].query, made->file.layers[1].query);
        EXPECT_EQ(read->layers[1].low, made->file.layers[1].low);
        const float mean = (read->budget_weights[0] + read->budget_weights[1]) / 2;
        EXPECT_NEAR(mean, 1, 1e-3);
        if (by_head) {
          EXPECT_LE(made->spread_error, made->uniform_error * (1 + 1e-6));
        } else {
          EXPECT_THAT(read->budget_weights, ElementsAre(1, 1));
        }
      }
    }
  }
}

TinyModel WithWindows(const std::vector<int32_t>& windowed) {
  TinyModel shapes("llama");
  shapes.ints["llama.attention.sliding_window"] = 64;
  shapes.int_arrays["llama.attention.sliding_window_pattern"] = windowed;
  return shapes;
}

TEST(MakeLabelFileTest, LayersWithASlidingWindowHaveNoLabels) {
  Calibrated calibrated(WithWindows({1, 0}));
  CalibrationOptions options;
  options.width = kLabelWidth;
  options.sparsity = 3;
  const auto made = MakeLabelFile(calibrated.statistics, options, nullptr);
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_TRUE(made->file.layers[0].empty());
  EXPECT_FALSE(made->file.layers[1].empty());
  EXPECT_THAT(made->file.budget_weights, ElementsAre(1, 1));  // the one head has the whole budget
  const TemporaryFile file({});
  ASSERT_TRUE(made->file.Write(file.path()).ok());
  const auto read = LabelFile::Read(file.path(), *calibrated.model.checkpoint);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->layers[1].key, made->file.layers[1].key);
}

TEST(GatherStatisticsTest, AModelOfWindowsAloneHasNothingToSelect) {
  RandomTinyModel model(11, WithWindows({1, 1}), 0.5f);
  const auto backend = CreateCpuBackend({.threads = 1});
  const auto pools = KvPools::Allocate(*backend, Layout(model.config));
  ASSERT_TRUE(pools.ok()) << pools.status();
  auto loaded = Transformer::Load(model.checkpoint->weights(), model.config, *backend, **pools,
                                  {.max_step_tokens = kWindow});
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const absl::Status status =
      GatherStatistics(**loaded, *backend, *model.checkpoint, RandomWindows(1), {}, nullptr)
          .status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("all layers of the model have sliding"));
}

TEST(MakeLabelFileTest, ImportedChannelsAreTakenInTheirOrder) {
  Calibrated calibrated;
  ChannelRanking ranking(2, std::vector<int>(16));
  std::iota(ranking[0].begin(), ranking[0].end(), 0);
  std::iota(ranking[1].rbegin(), ranking[1].rend(), 0);
  CalibrationOptions options;
  options.basis = "channels";
  options.imported = &ranking;
  options.width = kLabelWidth;
  options.budgets_by_head = false;
  const auto made = MakeLabelFile(calibrated.statistics, options, nullptr);
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(made->file.ranking, "imported");
  for (int j = 0; j < kLabelWidth; ++j) {
    EXPECT_EQ(made->file.layers[0].key[j * kLabelWidth + j], 1);
    EXPECT_EQ(made->file.layers[1].key[(15 - j) * kLabelWidth + j], 1);
  }
}

TEST(MakeLabelFileTest, ResultsDoNotDependOnThreads) {
  Calibrated calibrated;
  CalibrationOptions options;
  options.width = kLabelWidth;
  options.sparsity = 3;
  options.threads = 1;
  const auto one = MakeLabelFile(calibrated.statistics, options, nullptr);
  options.threads = 3;
  const auto three = MakeLabelFile(calibrated.statistics, options, nullptr);
  ASSERT_TRUE(one.ok() && three.ok());
  EXPECT_EQ(one->file.layers[0].key, three->file.layers[0].key);
  EXPECT_EQ(one->file.budget_weights, three->file.budget_weights);
}

TEST(MakeLabelFileTest, ImpossibleOptionsAreRefused) {
  Calibrated calibrated;
  const auto code = [&](const std::function<void(CalibrationOptions&)>& change) {
    CalibrationOptions options;
    options.width = kLabelWidth;
    change(options);
    return MakeLabelFile(calibrated.statistics, options, nullptr).status().code();
  };
  const auto invalid = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(code([](auto& o) { o.width = 12; }), invalid);
  EXPECT_EQ(code([](auto& o) { o.width = 24; }), invalid);
  EXPECT_EQ(code([](auto& o) { o.width = 0; }), invalid);
  EXPECT_EQ(code([](auto& o) { o.basis = "magic"; }), invalid);
  EXPECT_EQ(code([](auto& o) { o.ranking = "kq"; }), invalid);
  EXPECT_EQ(code([](auto& o) { o.sparsity = 0.5; }), invalid);
  EXPECT_EQ(code([](auto& o) { o.sparsity = std::nan(""); }), invalid);
  calibrated.statistics.windows.clear();
  EXPECT_EQ(code([](auto&) {}), absl::StatusCode::kFailedPrecondition);
}

TEST(CutWindowsTest, AreSpreadEvenlyOverTheTextEachBehindThePrefix) {
  std::vector<int32_t> text(20);
  std::iota(text.begin(), text.end(), 0);
  const auto windows = CutWindows(text, std::vector<int32_t>{99}, 3, 4);
  ASSERT_TRUE(windows.ok()) << windows.status();
  EXPECT_THAT(*windows, ElementsAre(ElementsAre(99, 0, 1, 2), ElementsAre(99, 8, 9, 10),
                                    ElementsAre(99, 17, 18, 19)));
}

TEST(CutWindowsTest, ATextThatIsTooShortIsRefusedWithBothLengths) {
  const std::vector<int32_t> text(20);
  EXPECT_TRUE(CutWindows(text, {}, 5, 4).ok());
  const auto windows = CutWindows(text, {}, 5, 5);
  EXPECT_EQ(windows.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(windows.status().message()),
              testing::AllOf(HasSubstr("20 tokens"), HasSubstr("25")));
}

}  // namespace
}  // namespace winnow
