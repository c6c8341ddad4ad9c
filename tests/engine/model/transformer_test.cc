#include "engine/model/transformer.h"

#include <memory>
#include <string>
#include <vector>

#include "engine/cache/kv_pools.h"
#include "engine/model/kv_layout.h"
#include "gtest/gtest.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/step_batch_builder.h"
#include "tests/engine/model/module_fixture.h"

namespace winnow {
namespace {

using test::ExpectNear;
using test::Matrix64;
using test::RandomTinyModel;
using test::ReferenceModel;

// Residuals of two layers whose keys and values are in fp16.
constexpr double kTolerance = 5e-3;
constexpr int kBlockTokens = 16;

const std::vector<int32_t> kTokens = {2, 0, 1, 3, 3, 1, 0, 2, 2, 1, 0, 0, 3, 1, 2, 3, 0, 1, 1, 2};

/// A model on the CPU, in fp32, whose one sequence has blocks 1 and 0.
class Computed {
 public:
  explicit Computed(const TinyModel& shapes) : model_(9, shapes, 0.4f) {
    auto pools = KvPools::Allocate(
        *backend_, KvLayout(model_.config, {.blocks = 2, .block_tokens = kBlockTokens}));
    EXPECT_TRUE(pools.ok()) << pools.status();
    pools_ = *std::move(pools);
    auto loaded = Transformer::Load(model_.checkpoint->weights(), model_.config, *backend_, *pools_,
                                    {.max_step_tokens = 16});
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    transformer_ = *std::move(loaded);
  }

  /// Logits of tokens [begin, end) in one step: [end - begin][vocab].
  Matrix64 Step(int begin, int end) {
    StepBatchBuilder rows(pools_->groups());
    rows.BeginSequence(std::vector<int32_t>{1, 0});
    for (int t = begin; t < end; ++t) {
      rows.AddRow(kTokens[static_cast<size_t>(t)], t, Selection{}, /*wants_logits=*/true);
    }
    const int64_t vocab = transformer_->vocab();
    std::vector<float> logits(static_cast<size_t>((end - begin) * vocab));
    EXPECT_TRUE(transformer_->Forward(rows.Build(), logits, {}).ok());
    Matrix64 matrix;
    for (auto row = logits.begin(); row != logits.end(); row += vocab) {
      matrix.emplace_back(row, row + vocab);
    }
    return matrix;
  }

  Matrix64 Expected() const {
    return ReferenceModel(*model_.checkpoint->gguf(), model_.config).Logits(kTokens);
  }
  Transformer& transformer() { return *transformer_; }

 private:
  RandomTinyModel model_;
  const std::unique_ptr<Backend> backend_ = CreateCpuBackend({.threads = 1, .f32_matmul = true});
  std::unique_ptr<KvPools> pools_;
  std::unique_ptr<Transformer> transformer_;
};

void ExpectLogitsOfTheReference(const TinyModel& shapes) {
  Computed computed(shapes);
  Matrix64 logits = computed.Step(0, 16);
  for (int t = 16; t < static_cast<int>(kTokens.size()); ++t) {
    logits.push_back(computed.Step(t, t + 1)[0]);
  }
  ExpectNear(logits, computed.Expected(), kTolerance);
}

TEST(TransformerTest, ComputesLlamaWhoseOutputIsTheEmbedding) {
  ExpectLogitsOfTheReference(TinyModel::Of("llama"));
}

TEST(TransformerTest, ComputesQwen2WithAnOutputOfItsOwn) {
  TinyModel shapes = TinyModel::Of("qwen2");
  shapes.shapes["output.weight"] = {4, 32};
  ExpectLogitsOfTheReference(shapes);
}

/// Windows, scales and caps that matter for twenty tokens.
TinyModel Shapes(const std::string& name) {
  const bool is_llama = name == "mistral" || name == "mixtral" || name == "yarn";
  TinyModel shapes = TinyModel::Of(is_llama ? "llama" : name);
  if (name == "mixtral") shapes.AddExperts(5, 2);
  if (name == "mistral") shapes.ints["llama.attention.sliding_window"] = 5;
  if (name == "yarn") {
    shapes.strings["llama.rope.scaling.type"] = "yarn";
    shapes.floats["llama.rope.scaling.factor"] = 4;
    shapes.ints["llama.rope.scaling.original_context_length"] = 32;
    shapes.floats["llama.rope.freq_base"] = 100;
  }
  if (name == "phi3") {
    shapes.ints["phi3.rope.dimension_count"] = 12;
    shapes.ints["phi3.rope.scaling.original_context_length"] = 32;
    shapes.shapes["rope_factors_short.weight"] = {6};
    shapes.values["rope_factors_short.weight"] = {1, 1, 1, 1, 1, 1};
    shapes.shapes["rope_factors_long.weight"] = {6};
    shapes.values["rope_factors_long.weight"] = {1, 1.5f, 2, 3, 4, 6};
  }
  if (name == "gemma2") {
    shapes.ints["gemma2.attention.sliding_window"] = 5;
    shapes.floats["gemma2.attention.scale"] = 0.3f;
    shapes.floats["gemma2.attn_logit_softcapping"] = 1.5f;
    shapes.floats["gemma2.final_logit_softcapping"] = 1.5f;
  }
  if (name == "gemma3") {
    shapes.ints["gemma3.attention.sliding_window"] = 5;
    shapes.ints["gemma3.attention.sliding_window_pattern"] = 2;
    shapes.floats["gemma3.rope.freq_base"] = 1e6f;
    shapes.floats["gemma3.rope.scaling.factor"] = 8;
  }
  return shapes;
}

class FamilyTransformerTest : public testing::TestWithParam<const char*> {};

TEST_P(FamilyTransformerTest, ComputesWhatItsEquationsSay) {
  ExpectLogitsOfTheReference(Shapes(GetParam()));
}

INSTANTIATE_TEST_SUITE_P(Families, FamilyTransformerTest,
                         testing::Values("mistral", "mixtral", "yarn", "qwen3", "qwen3moe", "phi3",
                                         "gemma2", "gemma3"),
                         [](const testing::TestParamInfo<const char*>& info) {
                           return std::string(info.param);
                         });

TEST(TransformerTest, ARowWithExpertsIsTheSameInStepsOfAnyRows) {
  const Matrix64 together = Computed(Shapes("mixtral")).Step(0, 16);
  Computed apart(Shapes("mixtral"));
  for (int t = 0; t < 16; ++t) {
    EXPECT_EQ(apart.Step(t, t + 1)[0], together[static_cast<size_t>(t)]) << t;
  }
}

TEST(TransformerTest, CountsTheExpertsThatStepsRead) {
  Computed computed(Shapes("mixtral"));
  EXPECT_EQ(*computed.transformer().CountExpertReads(), 0);
  computed.Step(0, 1);
  EXPECT_EQ(*computed.transformer().CountExpertReads(), 2 * 2);
  computed.Step(1, 16);
  EXPECT_GT(*computed.transformer().CountExpertReads(), 2 * 2 * 2);
  EXPECT_LE(*computed.transformer().CountExpertReads(), 2 * 2 + 2 * 5);
  EXPECT_EQ(computed.transformer().expert_bytes(), 3 * 32 * 64 * 4);
  EXPECT_EQ(*Computed(TinyModel::Of("llama")).transformer().CountExpertReads(), 0);
}

TEST(TransformerTest, ShowsEveryLayerInOrderUntilNobodyLooks) {
  Computed computed(TinyModel::Of("llama"));
  std::vector<int> layers;
  computed.transformer().SetLayerObserver(
      [&](int layer, const Tensor&, const Tensor&) { layers.push_back(layer); });
  computed.Step(0, 4);
  EXPECT_EQ(layers, (std::vector<int>{0, 1}));
  computed.transformer().SetLayerObserver(nullptr);
  computed.Step(4, 8);
  EXPECT_EQ(layers.size(), 2);
}

TEST(TransformerTest, CountsTheWeightsOfItsModules) {
  Computed computed(TinyModel::Of("llama"));
  const int64_t layer = 32 * (32 + 16 + 16) + 32 * 32 + 3 * 32 * 64;
  EXPECT_EQ(computed.transformer().layer_weights(), 2 * layer);
  EXPECT_EQ(computed.transformer().weight_bytes(), 2 * layer * static_cast<int64_t>(sizeof(float)) +
                                                       CpuMatrixBytes(DataType::kF32, 4, 32));
}

}  // namespace
}  // namespace winnow
