#include "engine/model/activations.h"

#include <algorithm>
#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/cpu_backend.h"

namespace winnow {
namespace {

ModelConfig Config() {
  ModelConfig config;
  config.hidden = 32;
  config.ffn = 48;
  config.heads = 4;
  config.kv_heads = 2;
  config.head_dim = 16;
  config.vocab = 100;
  return config;
}

void ExpectShape(const Tensor& tensor, int64_t rows, int64_t columns) {
  EXPECT_EQ(tensor.rows, rows);
  EXPECT_EQ(tensor.columns, columns);
  EXPECT_EQ(tensor.stride, columns);
}

TEST(ActivationsTest, ViewsHaveTheRowsOfTheStepAndTheWidthsOfTheModel) {
  const std::unique_ptr<Backend> backend = CreateCpuBackend({.threads = 1});
  const auto memory = ActivationMemory::Allocate(Config(), 200, *backend);
  ASSERT_TRUE(memory.ok()) << memory.status();
  const Activations step = memory->OfStep(150);
  ExpectShape(step.residual, 150, 32);
  ExpectShape(step.normed, 150, 32);
  ExpectShape(step.qkv, 150, (4 + 2 * 2) * 16);
  ExpectShape(step.attended, 150, 4 * 16);
  ExpectShape(step.gate_up, 150, 2 * 48);
  ExpectShape(step.gated, 150, 48);
  const LogitActivations logits = memory->OfLogits(3);
  ExpectShape(logits.residual, 3, 32);
  ExpectShape(logits.normed, 3, 32);
  ExpectShape(logits.logits, 3, 100);
}

TEST(ActivationsTest, ModulesWithANormBehindThemHaveRoomForWhatItTakes) {
  const std::unique_ptr<Backend> backend = CreateCpuBackend({.threads = 1});
  ModelConfig config = Config();
  EXPECT_EQ(ActivationMemory::Allocate(config, 200, *backend)->OfStep(150).branch.rows, 0);
  config.post_norms = true;
  ExpectShape(ActivationMemory::Allocate(config, 200, *backend)->OfStep(150).branch, 150, 32);
}

TEST(ActivationsTest, RowsOfExpertsAreThoseOfEachWithItsOwn) {
  const std::unique_ptr<Backend> backend = CreateCpuBackend({.threads = 1});
  ModelConfig config = Config();
  config.mixture = {.experts = 8, .chosen = 3, .ffn = 24};
  const auto memory = ActivationMemory::Allocate(config, 200, *backend);
  ASSERT_TRUE(memory.ok()) << memory.status();
  const Activations step = memory->OfStep(150);
  ExpectShape(step.gate_up, 150 * 3, 2 * 24);
  ExpectShape(step.gated, 150 * 3, 24);
  ExpectShape(step.router, 150, 8);
  ExpectShape(step.expert_out, 150 * 3, 32);
  EXPECT_EQ(step.routes.rows, 150);
  EXPECT_EQ(step.routes.experts, 8);
  EXPECT_EQ(step.routes.chosen, 3);
  EXPECT_EQ(*step.routes.expert_reads, 0);
}

TEST(ActivationsTest, NothingOverlapsButTheNormedRowsOfLogits) {
  const std::unique_ptr<Backend> backend = CreateCpuBackend({.threads = 1});
  // Fewer rows than become logits at once.
  ModelConfig config = Config();
  config.post_norms = true;
  const auto memory = ActivationMemory::Allocate(config, 5, *backend);
  ASSERT_TRUE(memory.ok()) << memory.status();
  const Activations step = memory->OfStep(5);
  const LogitActivations logits = memory->OfLogits(ActivationMemory::kLogitRows);
  EXPECT_EQ(logits.normed.data, step.normed.data);
  std::vector<std::pair<std::byte*, int64_t>> areas;
  for (const Tensor& tensor : {step.residual, logits.normed, step.qkv, step.attended, step.gate_up,
                               step.gated, step.branch, logits.residual, logits.logits}) {
    areas.emplace_back(static_cast<std::byte*>(tensor.data),
                       tensor.rows * RowBytes(tensor.type, tensor.columns));
  }
  std::sort(areas.begin(), areas.end());
  for (size_t i = 1; i < areas.size(); ++i) {
    EXPECT_LE(areas[i - 1].first + areas[i - 1].second, areas[i].first);
  }
}

}  // namespace
}  // namespace winnow
