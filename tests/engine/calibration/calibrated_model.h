#pragma once

#include <Eigen/Core>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "engine/cache/kv_pools.h"
#include "engine/calibration/calibration_statistics.h"
#include "engine/model/kv_layout.h"
#include "engine/model/transformer.h"
#include "gtest/gtest.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/step_batch_builder.h"
#include "tests/engine/calibration/random_tiny_model.h"

namespace winnow::test {

inline constexpr int kWindow = 120;  ///< tokens

/// Windows of the tokens that a RandomTinyModel has.
inline std::vector<std::vector<int32_t>> RandomWindows(int count) {
  std::mt19937 random(5);
  std::vector<std::vector<int32_t>> windows(count);
  for (std::vector<int32_t>& window : windows) {
    for (int t = 0; t < kWindow; ++t) window.push_back(static_cast<int32_t>(random() % 4));
  }
  return windows;
}

/// Room for one window.
inline std::vector<KvShape> OneWindowLayout(const ModelConfig& config) {
  return KvLayout(config, {.blocks = 8, .block_tokens = 16});
}

/// A tiny random model, its statistics over three windows, and what its layers computed.
class Calibrated {
 public:
  explicit Calibrated(const std::string& architecture = "llama")
      : Calibrated(TinyModel::Of(architecture)) {}

  explicit Calibrated(const TinyModel& shapes) : model(11, shapes, 0.5f) {
    backend_ = CreateCpuBackend({.threads = 1, .f32_matmul = true});
    auto pools = KvPools::Allocate(*backend_, OneWindowLayout(model.config));
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

  /// Queries, keys, values and residuals of every layer of one window, in double.
  struct Seen {
    Eigen::MatrixXd qkv;  ///< [tokens, 4 heads of 16]
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

}  // namespace winnow::test
