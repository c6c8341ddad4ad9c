// The demo model on a window of the golden text (tests/golden/README.md).

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <vector>

#include "engine/cache/kv_pools.h"
#include "engine/eval/perplexity.h"
#include "engine/model/config.h"
#include "engine/model/gguf.h"
#include "engine/model/kv_layout.h"
#include "engine/model/label_file.h"
#include "engine/model/transformer.h"
#include "gtest/gtest.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/devices/create_backend.h"

namespace winnow {
namespace {

constexpr int kBlockTokens = 32;

TEST(DemoPerplexityTest, DenseSecondHalfIsScoredAsInOneForwardPassOfTheWindow) {
  const char* path = std::getenv("WINNOW_DEMO_MODEL");
  ASSERT_NE(path, nullptr) << "set WINNOW_DEMO_MODEL to the demo model's file";
  const auto file = GgufFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  const auto config = ModelConfig::FromGguf(**file);
  ASSERT_TRUE(config.ok()) << config.status();
  const auto golden = nlohmann::json::parse(std::ifstream("tests/golden/logits_smollm2.json"));
  const auto tokens = golden["perplexity"]["windows"][0]["tokens"].get<std::vector<int32_t>>();
  const auto context = static_cast<int>(tokens.size());
  const int half = context / 2;
  const auto backend = CreateCpuBackend({});
  const std::vector<KvShape> layout = KvLayout(
      *config,
      {.blocks = (context + kBlockTokens - 1) / kBlockTokens, .block_tokens = kBlockTokens});
  const auto pools = KvPools::Allocate(*backend, layout);
  ASSERT_TRUE(pools.ok()) << pools.status();
  const auto transformer =
      Transformer::Load(**file, *config, *backend, **pools, {.max_step_tokens = context});
  ASSERT_TRUE(transformer.ok()) << transformer.status();

  // All tokens as one dense prompt, in blocks of descending numbers.
  std::vector<int32_t> positions(tokens.size());
  std::iota(positions.begin(), positions.end(), 0);
  const std::vector<int32_t> query_begin = {0, context};
  std::vector<int32_t> blocks(static_cast<size_t>(layout[0].blocks));
  std::iota(blocks.rbegin(), blocks.rend(), 0);
  const auto vocab = static_cast<size_t>(config->vocab);
  std::vector<float> logits(tokens.size() * vocab);
  const absl::Status status = (*transformer)
                                  ->Forward({.tokens = tokens,
                                             .positions = positions,
                                             .query_begin = query_begin,
                                             .block_tables = blocks,
                                             .max_blocks = static_cast<int32_t>(blocks.size()),
                                             .logit_rows = positions},
                                            logits, {});
  ASSERT_TRUE(status.ok()) << status;
  double loss = 0;
  for (int i = half - 1; i + 1 < context; ++i) {
    const float* row = &logits[static_cast<size_t>(i) * vocab];
    const double largest = *std::max_element(row, row + vocab);
    double sum = 0;
    for (size_t token = 0; token < vocab; ++token) sum += std::exp(row[token] - largest);
    loss += largest + std::log(sum) - row[tokens[static_cast<size_t>(i) + 1]];
  }
  loss /= context - half;

  const std::vector<AttentionPolicy> policies = {{.kind = SelectionKind::kAll},
                                                 {.kind = SelectionKind::kScores, .sparsity = 8},
                                                 {.kind = SelectionKind::kWindow, .sparsity = 8}};
  const auto results =
      EvalPerplexity(**transformer, tokens, policies,
                     {.context = context, .block_tokens = kBlockTokens, .step_rows = 64});
  ASSERT_TRUE(results.ok()) << results.status();
  const double dense = (*results)[0].loss;
  EXPECT_NEAR(dense, loss, 1e-5);
  // Recent tokens alone predict the text worse than those that matter.
  EXPECT_GT((*results)[2].loss, dense);
  EXPECT_GT((*results)[2].loss, (*results)[1].loss);
}

TEST(DemoPerplexityTest, CudaPredictsTheTextAsTheCpuDoesDenseAndSparse) {
  absl::StatusOr<std::unique_ptr<Backend>> cuda = CreateBackend({.device = "cuda"});
  if (!cuda.ok()) GTEST_SKIP() << cuda.status().message();
  const char* path = std::getenv("WINNOW_DEMO_MODEL");
  ASSERT_NE(path, nullptr) << "set WINNOW_DEMO_MODEL to the demo model's file";
  const auto checkpoint = Checkpoint::Open(path);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const ModelConfig& config = (*checkpoint)->config();
  const auto labels = LabelFile::Read("models/smollm2-135m-instruct.labels.json", **checkpoint);
  ASSERT_TRUE(labels.ok()) << labels.status();
  std::vector<int32_t> tokens;
  const auto golden = nlohmann::json::parse(std::ifstream("tests/golden/logits_smollm2.json"));
  for (const auto& window : golden["perplexity"]["windows"]) {
    for (const int32_t token : window["tokens"]) tokens.push_back(token);
  }
  const auto context = static_cast<int>(std::min<size_t>(tokens.size(), 2048));
  const std::vector<AttentionPolicy> policies = {{.kind = SelectionKind::kAll},
                                                 {.kind = SelectionKind::kLabels, .sparsity = 16}};
  // The exact path: activations of 8 bits would be the larger error.
  const std::unique_ptr<Backend> cpu = CreateCpuBackend({.f32_matmul = true});
  std::vector<PerplexityResult> results[2];
  for (int device = 0; device < 2; ++device) {
    Backend& backend = device == 0 ? *cpu : **cuda;
    const auto pools = KvPools::Allocate(
        backend, KvLayout(config, {.blocks = (context + kBlockTokens - 1) / kBlockTokens,
                                   .block_tokens = kBlockTokens,
                                   .label_width = labels->width,
                                   .summary_slots = 1}));
    ASSERT_TRUE(pools.ok()) << pools.status();
    const auto transformer = Transformer::Load((*checkpoint)->weights(), config, backend, **pools,
                                               {.max_step_tokens = 256, .labels = &*labels});
    ASSERT_TRUE(transformer.ok()) << transformer.status();
    auto result = EvalPerplexity(**transformer, tokens, policies,
                                 {.context = context, .block_tokens = kBlockTokens});
    ASSERT_TRUE(result.ok()) << result.status();
    results[device] = *std::move(result);
  }
  for (size_t i = 0; i < policies.size(); ++i) {
    const PerplexityResult& want = results[0][i];
    const PerplexityResult& got = results[1][i];
    std::cout << (i == 0 ? "dense" : "1/16") << ": CPU " << want.perplexity << " (recall "
              << want.recall << "), CUDA " << got.perplexity << " (" << got.recall << ")\n";
    EXPECT_NEAR(got.perplexity / want.perplexity, 1, 0.005);
    EXPECT_NEAR(got.recall, want.recall, 0.01);
    EXPECT_NEAR(got.estimated, want.estimated, 0.01);
  }
}

}  // namespace
}  // namespace winnow
