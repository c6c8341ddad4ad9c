#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engine/cache/kv_pools.h"
#include "engine/model/activations.h"
#include "engine/model/device_floats.h"
#include "engine/model/kv_layout.h"
#include "engine/model/model_spec.h"
#include "engine/model/step_context.h"
#include "engine/model/weight_loader.h"
#include "gtest/gtest.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/step_batch_builder.h"
#include "tests/engine/calibration/random_tiny_model.h"
#include "tests/engine/model/reference_model.h"

namespace winnow::test {

/// Random numbers of about 1.
inline Matrix64 RandomMatrix(size_t rows, size_t columns, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;  // numbers that fp32 holds
  Matrix64 matrix(rows, std::vector<double>(columns));
  for (std::vector<double>& row : matrix) {
    for (double& value : row) value = normal(random);
  }
  return matrix;
}

/// Every element differs by at most `tolerance` times the largest expected one.
inline void ExpectNear(const Matrix64& actual, const Matrix64& expected, double tolerance) {
  ASSERT_EQ(actual.size(), expected.size());
  double largest = 0;
  double worst = 0;
  for (size_t t = 0; t < expected.size(); ++t) {
    ASSERT_EQ(actual[t].size(), expected[t].size());
    for (size_t c = 0; c < expected[t].size(); ++c) {
      largest = std::max(largest, std::abs(expected[t][c]));
      worst = std::max(worst, std::abs(actual[t][c] - expected[t][c]));
    }
  }
  EXPECT_GT(largest, 0);
  EXPECT_LE(worst, tolerance * largest);
}

/// What modules of a tiny random model need to run on the CPU in fp32, and the same model in
/// float64. One sequence, whose KV blocks are not in order.
class ModuleFixture {
 public:
  static constexpr int kBlockTokens = 16;
  static constexpr int kMaxRows = 32;

  explicit ModuleFixture(const std::string& architecture)
      : ModuleFixture(TinyModel::Of(architecture)) {}

  explicit ModuleFixture(const TinyModel& shapes)
      : model(5, shapes, 0.4f),
        config(model.config),
        spec(ModelSpec::Of(config)),
        reference(*model.checkpoint->gguf(), config),
        backend(CreateCpuBackend({.threads = 1, .f32_matmul = true})),
        loader(model.checkpoint->weights(), *backend) {
    activations_ = *ActivationMemory::Allocate(config, kMaxRows, *backend);
    for (const RopeConfig& rope : config.ropes) {
      const std::vector<float> numbers(rope.frequencies.begin(), rope.frequencies.end());
      frequencies_.push_back(*DeviceFloats::Upload(numbers, *backend));
      ropes_.push_back(
          {rope.pairing, rope.dim, frequencies_.back().data(), static_cast<float>(rope.magnitude)});
    }
    pools_ =
        *KvPools::Allocate(*backend, KvLayout(config, {.blocks = 2, .block_tokens = kBlockTokens}));
  }

  /// Computes rows x of the sequence, from `begin` on, by `run(context, residual)`, and returns
  /// what the residual stream then holds.
  template <typename Module>
  Matrix64 Run(const Module& module, const Matrix64& x, int begin, const Selection& selection = {},
               std::span<const RecallProbe> probes = {}, std::span<ProbedMass> probed = {}) {
    const std::vector<int32_t> blocks = {1, 0};
    StepBatchBuilder rows(pools_->groups());
    rows.BeginSequence(blocks);
    for (int i = 0; i < static_cast<int>(x.size()); ++i) {
      rows.AddRow(0, begin + i, selection, /*wants_logits=*/false);
    }
    for (const RecallProbe& probe : probes) rows.AddProbe(probe);
    const StepBatch batch = rows.Build();
    const StepContext context = {.backend = *backend,
                                 .batch = batch,
                                 .pools = *pools_,
                                 .activations = activations_.OfStep(batch.rows()),
                                 .probed = probed,
                                 .observer = observer};
    const Tensor residual = context.activations.residual;
    CopyToDevice(x, residual);
    backend->BeginStep(batch);
    module.Run(context, residual);
    EXPECT_TRUE(backend->Synchronize().ok());
    return ToMatrix(residual);
  }

  void CopyToDevice(const Matrix64& x, const Tensor& tensor) {
    for (size_t t = 0; t < x.size(); ++t) {
      const std::vector<float> row(x[t].begin(), x[t].end());
      backend->Copy(reinterpret_cast<std::byte*>(tensor.Row(static_cast<int64_t>(t))),
                    reinterpret_cast<const std::byte*>(row.data()),
                    static_cast<int64_t>(row.size() * sizeof(float)));
    }
  }

  Matrix64 ToMatrix(const Tensor& tensor) {
    std::vector<float> values(static_cast<size_t>(tensor.rows * tensor.columns));
    backend->CopyToHost(tensor, values.data());
    Matrix64 matrix;
    for (auto row = values.begin(); row != values.end(); row += tensor.columns) {
      matrix.emplace_back(row, row + tensor.columns);
    }
    return matrix;
  }

  Activations activations(int rows) const { return activations_.OfStep(rows); }
  std::span<const Rope> ropes() const { return ropes_; }

  const RandomTinyModel model;
  const ModelConfig& config;
  const ModelSpec spec;
  const ReferenceModel reference;
  const std::unique_ptr<Backend> backend;
  const WeightLoader loader;
  LayerObserver observer;

 private:
  ActivationMemory activations_;
  std::vector<DeviceFloats> frequencies_;
  std::vector<Rope> ropes_;
  std::unique_ptr<KvPools> pools_;
};

}  // namespace winnow::test
