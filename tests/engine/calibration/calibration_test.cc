#include "engine/calibration/calibration.h"

#include <Eigen/Dense>
#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <random>

#include "engine/cache/kv_pools.h"
#include "engine/calibration/budget_spread.h"
#include "engine/calibration/label_basis.h"
#include "engine/calibration/selection_error.h"
#include "engine/calibration/tail_weight.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/float16.h"
#include "tests/engine/calibration/calibrated_model.h"
#include "tests/engine/calibration/random_tiny_model.h"

namespace winnow {
namespace {

using test::Calibrated;
using test::kWindow;
using test::OneWindowLayout;
using test::RandomTinyModel;
using test::RandomWindows;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr int kLabelWidth = 8;

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
  const auto pools = KvPools::Allocate(*backend, OneWindowLayout(broken.config));
  ASSERT_TRUE(pools.ok()) << pools.status();
  auto loaded = Transformer::Load(broken.checkpoint->weights(), broken.config, *backend, **pools,
                                  {.max_step_tokens = kWindow});
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const auto gathered =
      GatherStatistics(**loaded, *backend, *broken.checkpoint, RandomWindows(1), {}, nullptr);
  EXPECT_EQ(gathered.status().code(), absl::StatusCode::kInvalidArgument);
}

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
          EXPECT_LE(made->spread_error, made->left_out_error);
          EXPECT_EQ(read->tail_weights.size(), 2u);
        } else {
          EXPECT_THAT(read->budget_weights, ElementsAre(1, 1));
          EXPECT_TRUE(read->tail_weights.empty());
        }
      }
    }
  }
}

TEST(MakeLabelFileTest, TheTailWeightsAreThoseOfTheLeastErrorAtEachHeadsBudget) {
  const Calibrated calibrated;
  const CalibrationStatistics& statistics = calibrated.statistics;
  CalibrationOptions options;
  options.width = kLabelWidth;
  options.sparsity = 8;
  const auto made = MakeLabelFile(statistics, options, nullptr);
  ASSERT_TRUE(made.ok()) << made.status();
  for (int layer = 0; layer < 2; ++layer) {
    const CalibrationStatistics::Head& head = statistics.head(layer, 0);
    LabelBasis basis = ProjectionBasis(head.query_moment, head.key_covariance, 16, kLabelWidth);
    RoundToHalf(basis);
    const auto error = [&](double weight) {
      const auto errors =
          MeasureSelectionErrors(statistics, layer, 0, basis, QuantileRanges(basis, head.keys),
                                 options.forced, std::vector<double>{weight});
      return ErrorAt(errors[0], BudgetFractions(), made->file.budget_weights[layer] / 8);
    };
    const double best = error(made->file.tail_weights[layer] / kTailCaution);
    for (const double weight : {0.0, 0.2, 0.4, 0.6, 0.8, 1.0})
      EXPECT_LE(best, error(weight) * 1.01);
  }
}

TEST(MakeLabelFileTest, TheTailIsNotMeasuredWhereItCannotCount) {
  Calibrated calibrated;
  CalibrationOptions options;
  options.width = kLabelWidth;
  options.tail = false;
  const auto without = MakeLabelFile(calibrated.statistics, options, nullptr);
  ASSERT_TRUE(without.ok()) << without.status();
  EXPECT_TRUE(without->file.tail_weights.empty());
  EXPECT_EQ(without->spread_error, without->left_out_error);
  options.tail = true;
  calibrated.statistics.attention.soft_cap = 5;
  const auto capped = MakeLabelFile(calibrated.statistics, options, nullptr);
  ASSERT_TRUE(capped.ok()) << capped.status();
  EXPECT_TRUE(capped->file.tail_weights.empty());
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
  ASSERT_EQ(made->file.tail_weights.size(), 2u);
  EXPECT_EQ(made->file.tail_weights[0], 0);
  const TemporaryFile file({});
  ASSERT_TRUE(made->file.Write(file.path()).ok());
  const auto read = LabelFile::Read(file.path(), *calibrated.model.checkpoint);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->layers[1].key, made->file.layers[1].key);
}

TEST(GatherStatisticsTest, AModelOfWindowsAloneHasNothingToSelect) {
  RandomTinyModel model(11, WithWindows({1, 1}), 0.5f);
  const auto backend = CreateCpuBackend({.threads = 1});
  const auto pools = KvPools::Allocate(*backend, OneWindowLayout(model.config));
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
  EXPECT_EQ(one->file.tail_weights, three->file.tail_weights);
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
