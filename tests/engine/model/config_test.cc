#include "engine/model/config.h"

#include <cmath>
#include <functional>
#include <limits>
#include <string>

#include "engine/model/gguf.h"
#include "engine/model/kv_layout.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/model/tiny_model.h"

namespace winnow {
namespace {

using testing::DoubleNear;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pointwise;

MATCHER_P(NearlyEqual, tolerance, "") {
  const auto [actual, expected] = arg;
  return std::abs(actual - expected) <= tolerance * std::abs(expected);
}

absl::StatusOr<ModelConfig> Read(const TinyModel& model, int context = 0) {
  const TemporaryFile temporary(model.Write().Bytes());
  const auto file = GgufFile::Open(temporary.path());
  if (!file.ok()) return file.status();
  return ModelConfig::FromGguf(**file, context);
}

/// A tensor of so many factors, all the same.
void AddFactors(const std::string& name, int pairs, float factor, TinyModel& model) {
  model.shapes[name] = {static_cast<uint64_t>(pairs)};
  model.values[name].assign(static_cast<size_t>(pairs), factor);
}

TEST(ModelConfigTest, LlamaRotatesAdjacentPairsWithoutBiases) {
  const auto config = Read(TinyModel("llama"));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->architecture, "llama");
  EXPECT_EQ(config->name, "Tiny");
  EXPECT_EQ(config->layers, 2);
  EXPECT_EQ(config->hidden, 32);
  EXPECT_EQ(config->ffn, 64);
  EXPECT_EQ(config->heads, 2);
  EXPECT_EQ(config->kv_heads, 1);
  EXPECT_EQ(config->head_dim, 16);
  EXPECT_EQ(config->vocab, 4);
  EXPECT_EQ(config->max_context, 128);
  EXPECT_EQ(config->norm_epsilon, 1e-5f);
  EXPECT_EQ(config->ropes[0].pairing, RopePairing::kAdjacent);
  EXPECT_EQ(config->ropes[0].dim, 16);
  EXPECT_FALSE(config->qkv_bias);
  EXPECT_TRUE(config->tied_embeddings);
  // 2 layers, keys and values, 1 head of 16, 2 bytes each.
  EXPECT_EQ(KvBytesPerToken(*config), 128);
}

TEST(ModelConfigTest, Qwen2RotatesHalvesAndHasBiases) {
  TinyModel model("qwen2");
  model.AddQkvBiases();
  model.shapes["output.weight"] = {4, 32};
  const auto config = Read(model);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->architecture, "qwen2");
  EXPECT_EQ(config->ropes[0].pairing, RopePairing::kHalves);
  EXPECT_TRUE(config->qkv_bias);
  EXPECT_FALSE(config->tied_embeddings);
}

TEST(ModelConfigTest, LlamaWithBiasesIsRead) {
  TinyModel model("llama");
  model.AddQkvBiases();
  const auto config = Read(model);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_TRUE(config->qkv_bias);
}

TEST(ModelConfigTest, HeadSizeMayDifferFromWidthOverHeads) {
  TinyModel model("llama");
  model.ints["llama.attention.key_length"] = 32;
  model.ints["llama.attention.value_length"] = 32;
  for (const std::string layer : {"blk.0.", "blk.1."}) {
    model.shapes[layer + "attn_q.weight"] = {64, 32};
    model.shapes[layer + "attn_k.weight"] = {32, 32};
    model.shapes[layer + "attn_v.weight"] = {32, 32};
    model.shapes[layer + "attn_output.weight"] = {32, 64};
  }
  const auto config = Read(model);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->head_dim, 32);
  EXPECT_EQ(config->ropes[0].dim, 32);
}

TEST(ModelConfigTest, KvHeadsDefaultToHeadsAndTheNameToTheFile) {
  TinyModel model("llama");
  model.ints.erase("llama.attention.head_count_kv");
  model.strings.erase("general.name");
  for (const std::string layer : {"blk.0.", "blk.1."}) {
    model.shapes[layer + "attn_k.weight"] = {32, 32};
    model.shapes[layer + "attn_v.weight"] = {32, 32};
  }
  const auto config = Read(model);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->kv_heads, 2);
  EXPECT_THAT(config->name, testing::StartsWith("winnow_"));
}

// Base 10000 over 16 dimensions: pair i turns by 10^(-i/2) radians per position.
const std::vector<double> kPlainFrequencies = {
    1,    0.31622776601683794,   0.1,   0.031622776601683794,
    0.01, 0.0031622776601683794, 0.001, 0.00031622776601683794};

TEST(ModelConfigTest, RopeFrequenciesFollowTheBase) {
  const auto config = Read(TinyModel("llama"));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_THAT(config->ropes[0].frequencies, Pointwise(NearlyEqual(1e-12), kPlainFrequencies));

  TinyModel partial("llama");
  partial.floats["llama.rope.freq_base"] = 1e6f;
  partial.ints["llama.rope.dimension_count"] = 4;
  const auto partial_config = Read(partial);
  ASSERT_TRUE(partial_config.ok()) << partial_config.status();
  EXPECT_EQ(partial_config->ropes[0].dim, 4);
  EXPECT_THAT(partial_config->ropes[0].frequencies,
              ElementsAre(DoubleNear(1, 1e-12), DoubleNear(0.001, 1e-12)));
}

TEST(ModelConfigTest, LinearScalingDividesEveryFrequency) {
  TinyModel model("llama");
  model.strings["llama.rope.scaling.type"] = "linear";
  model.floats["llama.rope.scaling.factor"] = 4;
  std::vector<double> expected = kPlainFrequencies;
  for (double& frequency : expected) frequency /= 4;
  const auto config = Read(model);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_THAT(config->ropes[0].frequencies, Pointwise(NearlyEqual(1e-12), expected));

  TinyModel old_key("llama");
  old_key.floats["llama.rope.scale_linear"] = 4;
  EXPECT_EQ(Read(old_key)->ropes[0].frequencies, config->ropes[0].frequencies);

  model.strings["llama.rope.scaling.type"] = "none";
  EXPECT_THAT(Read(model)->ropes[0].frequencies, Pointwise(NearlyEqual(1e-12), kPlainFrequencies));
}

TEST(ModelConfigTest, Llama3FactorsDivideEachFrequency) {
  TinyModel model("llama");
  const std::vector<float> factors = {1, 1, 1, 2, 2.5, 8, 8, 8};
  model.shapes["rope_freqs.weight"] = {8};
  model.values["rope_freqs.weight"] = factors;
  std::vector<double> expected = kPlainFrequencies;
  for (size_t i = 0; i < factors.size(); ++i) expected[i] /= factors[i];
  const auto config = Read(model);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_THAT(config->ropes[0].frequencies, Pointwise(NearlyEqual(1e-12), expected));
}

TEST(ModelConfigTest, SlidingWindowOverTheWholeContextIsNone) {
  TinyModel model("llama");
  model.ints["llama.attention.sliding_window"] = 128;
  EXPECT_TRUE(Read(model).ok());
}

TEST(ModelConfigTest, WindowsAreThoseOfAllLayersOrOfSome) {
  const auto windows = [](const TinyModel& model) {
    const auto config = Read(model);
    EXPECT_TRUE(config.ok()) << config.status();
    std::vector<int> windows;
    for (const LayerConfig& layer : config->layer) windows.push_back(layer.sliding_window);
    return windows;
  };
  TinyModel mistral("llama");
  EXPECT_THAT(windows(mistral), ElementsAre(0, 0));
  mistral.ints["llama.attention.sliding_window"] = 64;
  EXPECT_THAT(windows(mistral), ElementsAre(64, 64));
  mistral.int_arrays["llama.attention.sliding_window_pattern"] = {0, 1};
  EXPECT_THAT(windows(mistral), ElementsAre(0, 64));
  TinyModel gemma = TinyModel::Of("gemma2");  // has a window of 4,096 if it states none
  EXPECT_THAT(windows(gemma), ElementsAre(0, 0));
  gemma.ints["gemma2.attention.sliding_window"] = 64;
  EXPECT_THAT(windows(gemma), ElementsAre(64, 0));
  gemma.ints["gemma2.attention.sliding_window_pattern"] = 1;
  EXPECT_THAT(windows(gemma), ElementsAre(0, 0));
}

TEST(ModelConfigTest, QwenHasWindowsInTheLayersThatTheFileLists) {
  for (const std::string architecture : {"qwen2", "qwen3"}) {
    TinyModel model = TinyModel::Of(architecture);
    model.ints[architecture + ".attention.sliding_window"] = 64;
    const absl::Status status = Read(model).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
    EXPECT_THAT(std::string(status.message()),
                HasSubstr("attention.sliding_window is 64) is not supported in " + architecture +
                          " models without " + architecture +
                          ".attention.sliding_window_pattern, the list of layers with it"));
    model.int_arrays[architecture + ".attention.sliding_window_pattern"] = {0, 1};
    const auto config = Read(model);
    ASSERT_TRUE(config.ok()) << config.status();
    EXPECT_EQ(config->layer[0].sliding_window, 0);
    EXPECT_EQ(config->layer[1].sliding_window, 64);
  }
}

TEST(ModelConfigTest, BiasesAreThoseThatTheFileHas) {
  TinyModel model("llama");
  for (const std::string layer : {"blk.0.", "blk.1."}) {
    model.shapes[layer + "attn_output.bias"] = {32};
  }
  auto config = Read(model);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_TRUE(config->output_bias);
  EXPECT_FALSE(config->qkv_bias);
  EXPECT_FALSE(config->ffn_bias);
  for (const std::string layer : {"blk.0.", "blk.1."}) {
    model.shapes[layer + "ffn_gate.bias"] = {64};
    model.shapes[layer + "ffn_up.bias"] = {64};
    model.shapes[layer + "ffn_down.bias"] = {32};
  }
  config = Read(model);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_TRUE(config->ffn_bias);
  model.shapes.erase("blk.1.ffn_up.bias");
  EXPECT_THAT(std::string(Read(model).status().message()),
              HasSubstr("blk.1.ffn_up.bias is missing"));
}

TEST(ModelConfigTest, Gemma2CapsItsScoresAndItsLogits) {
  TinyModel model = TinyModel::Of("gemma2");
  auto config = Read(model);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->activation, Activation::kGeluTanh);
  EXPECT_TRUE(config->post_norms);
  EXPECT_EQ(config->attention_soft_cap, 50);
  EXPECT_EQ(config->logit_soft_cap, 30);
  EXPECT_EQ(config->attention_scale, 0);
  EXPECT_FLOAT_EQ(config->embedding_scale, std::sqrt(32.0f));
  model.floats["gemma2.attn_logit_softcapping"] = 0;
  model.floats["gemma2.final_logit_softcapping"] = 20;
  model.floats["gemma2.attention.scale"] = 0.125f;
  config = Read(model);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->attention_soft_cap, 0);
  EXPECT_EQ(config->logit_soft_cap, 20);
  EXPECT_EQ(config->attention_scale, 0.125f);
}

TEST(ModelConfigTest, TheLargestGemmaScalesScoresByTheWidthOfItsHeads) {
  TinyModel model = TinyModel::Of("gemma2");
  model.ints["gemma2.block_count"] = 46;
  for (const auto& [name, shape] : TinyModel::Of("gemma2").shapes) {
    if (!name.starts_with("blk.0.")) continue;
    for (int layer = 2; layer < 46; ++layer) {
      model.shapes["blk." + std::to_string(layer) + name.substr(5)] = shape;
    }
  }
  const auto config = Read(model);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_FLOAT_EQ(config->attention_scale, 0.25f);  // a width of 32, 2 heads
}

TEST(ModelConfigTest, Gemma3RotatesWindowedLayersByAnotherBase) {
  TinyModel model = TinyModel::Of("gemma3");
  model.floats["gemma3.rope.freq_base"] = 1e6f;
  model.floats["gemma3.rope.scaling.factor"] = 8;
  model.ints["gemma3.attention.sliding_window"] = 64;
  model.ints["gemma3.attention.sliding_window_pattern"] = 2;
  const auto config = Read(model);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_TRUE(config->qk_norm);
  EXPECT_TRUE(config->post_norms);
  ASSERT_EQ(config->ropes.size(), 2);
  EXPECT_EQ(config->layer[0].rope, 1);
  EXPECT_EQ(config->layer[1].rope, 0);
  EXPECT_EQ(config->layer[0].sliding_window, 64);
  for (int i = 0; i < 8; ++i) {
    EXPECT_NEAR(config->ropes[0].frequencies[i], std::pow(1e6, -i / 8.0) / 8, 1e-12);
    EXPECT_NEAR(config->ropes[1].frequencies[i], std::pow(1e4, -i / 8.0), 1e-12);
  }
}

TEST(ModelConfigTest, YarnKeepsFastPairsAndCompressesSlowOnes) {
  TinyModel model("llama");
  model.strings["llama.rope.scaling.type"] = "yarn";
  model.floats["llama.rope.scaling.factor"] = 4;
  model.ints["llama.rope.scaling.original_context_length"] = 64;
  auto config = Read(model);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->ropes[0].frequencies[0], kPlainFrequencies[0]);
  EXPECT_NEAR(config->ropes[0].frequencies[7], kPlainFrequencies[7] / 4, 1e-12);
  EXPECT_NEAR(config->ropes[0].magnitude, 0.1 * std::log(4.0) + 1, 1e-12);
  model.floats["llama.rope.scaling.yarn_attn_factor"] = 1.5f;
  config = Read(model);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->ropes[0].magnitude, 1.5);
}

TEST(ModelConfigTest, LongropeHasFactorsForShortAndForLongContexts) {
  TinyModel model = TinyModel::Of("phi3");
  model.ints["phi3.rope.dimension_count"] = 8;
  model.ints["phi3.rope.scaling.original_context_length"] = 32;
  AddFactors("rope_factors_short.weight", 4, 2, model);
  AddFactors("rope_factors_long.weight", 4, 5, model);
  for (const auto& [context, factor] : {std::pair(32, 2), std::pair(33, 5), std::pair(0, 5)}) {
    const auto config = Read(model, context);
    ASSERT_TRUE(config.ok()) << config.status();
    EXPECT_TRUE(config->fused_qkv);
    const RopeConfig& rope = config->ropes[0];
    EXPECT_EQ(rope.dim, 8);
    for (int i = 0; i < 4; ++i) {
      EXPECT_NEAR(rope.frequencies[i], std::pow(1e4, -i / 4.0) / factor, 1e-12);
    }
    // Trained for four times as many tokens as at first.
    EXPECT_NEAR(rope.magnitude, std::sqrt(1 + std::log(4.0) / std::log(32.0)), 1e-12);
  }
  model.floats["phi3.rope.scaling.attn_factor"] = 1.25f;
  EXPECT_EQ(Read(model)->ropes[0].magnitude, 1.25);
}

TEST(ModelConfigTest, ReadsWhatExpertsLayersHave) {
  TinyModel model("llama");
  EXPECT_EQ(Read(model)->mixture.experts, 0);
  model.AddExperts(8, 2);
  const auto config = Read(model);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->mixture.experts, 8);
  EXPECT_EQ(config->mixture.chosen, 2);
  EXPECT_EQ(config->mixture.ffn, 64);
  EXPECT_TRUE(config->mixture.normalizes);
}

struct RefusedCase {
  const char* name;
  std::function<void(TinyModel&)> change;
  absl::StatusCode code;
  const char* message;
};

constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;
constexpr absl::StatusCode kUnimplemented = absl::StatusCode::kUnimplemented;

const RefusedCase kRefusedCases[] = {
    {"NoArchitecture", [](TinyModel& m) { m.strings.erase("general.architecture"); }, kInvalid,
     "metadata key general.architecture is missing"},
    {"UnknownArchitecture", [](TinyModel& m) { m.strings["general.architecture"] = "mamba"; },
     kUnimplemented, "the model architecture \"mamba\" is not supported"},
    {"TooManyExperts", [](TinyModel& m) { m.AddExperts(257, 2); }, kInvalid,
     "metadata key llama.expert_count is 257; it must be from 0 to 256"},
    {"MoreExpertsChosenThanThereAre", [](TinyModel& m) { m.AddExperts(4, 5); }, kInvalid,
     "metadata key llama.expert_used_count is 5; it must be from 1 to 4"},
    {"ExpertsOfAnotherWidth",
     [](TinyModel& m) {
       m.AddExperts(4, 2);
       m.ints["llama.expert_feed_forward_length"] = 48;
     },
     kInvalid, "blk.0.ffn_gate_exps.weight has the shape [4, 64, 32] instead of [4, 48, 32]"},
    {"ExpertsWithoutARouter",
     [](TinyModel& m) {
       m.AddExperts(4, 2);
       m.shapes.erase("blk.1.ffn_gate_inp.weight");
     },
     kInvalid, "the tensor blk.1.ffn_gate_inp.weight is missing"},
    {"ExpertsApart",
     [](TinyModel& m) {
       m.AddExperts(4, 2);
       m.shapes["blk.0.ffn_gate.0.weight"] = {64, 32};
     },
     kUnimplemented, "each expert's weights are a tensor of their own (blk.0.ffn_gate.0.weight)"},
    {"ExpertsThatAllRowsShare",
     [](TinyModel& m) {
       m.AddExperts(4, 2);
       m.shapes["blk.0.ffn_gate_shexp.weight"] = {64, 32};
     },
     kUnimplemented, "the tensor blk.0.ffn_gate_shexp.weight is not supported in llama models"},
    {"ExpertsWeightedBySigmoids",
     [](TinyModel& m) {
       m.AddExperts(4, 2);
       m.ints["llama.expert_gating_func"] = 2;
     },
     kUnimplemented, "llama.expert_gating_func is 2; experts are weighted by a softmax"},
    {"ScaledWeightsOfExperts",
     [](TinyModel& m) {
       m.AddExperts(4, 2);
       m.floats["llama.expert_weights_scale"] = 2.5f;
     },
     kUnimplemented, "scaled weights of experts (metadata key llama.expert_weights_scale is 2.5)"},
    {"ScaledResiduals", [](TinyModel& m) { m.floats["llama.residual_scale"] = 2; }, kUnimplemented,
     "scaled residuals (metadata key llama.residual_scale) is not supported"},
    {"AttentionSoftCap", [](TinyModel& m) { m.floats["llama.attn_logit_softcapping"] = 1e-3f; },
     kInvalid, "llama.attn_logit_softcapping is 0.001; it must be 0 or from 0.01 to 1e+06"},
    {"WindowPattern",
     [](TinyModel& m) {
       m.ints["llama.attention.sliding_window"] = 64;
       m.int_arrays["llama.attention.sliding_window_pattern"] = {1, 0, 1};
     },
     kInvalid, "llama.attention.sliding_window_pattern lists 3 layers instead of 2"},
    {"ScalingType", [](TinyModel& m) { m.strings["llama.rope.scaling.type"] = "ntk"; },
     kUnimplemented, "RoPE scaling of type \"ntk\" is not supported"},
    {"YarnWithoutContext", [](TinyModel& m) { m.strings["llama.rope.scaling.type"] = "yarn"; },
     kInvalid, "metadata key llama.rope.scaling.original_context_length is missing"},
    {"RopeBase", [](TinyModel& m) { m.floats["llama.rope.freq_base"] = 1; }, kInvalid,
     "metadata key llama.rope.freq_base is 1; it must be from 2 to 1e+12"},
    {"OneOfTwoRopeFactors", [](TinyModel& m) { AddFactors("rope_factors_long.weight", 8, 2, m); },
     kInvalid, "the tensor rope_factors_short.weight is missing"},
    {"LongropeWithoutFactors",
     [](TinyModel& m) { m.strings["llama.rope.scaling.type"] = "longrope"; }, kInvalid,
     "the tensor rope_factors_short.weight is missing"},
    {"HeadSize", [](TinyModel& m) { m.ints["llama.attention.key_length"] = 24; }, kUnimplemented,
     "the head size 24 is not supported; it must be a multiple of 16 up to 1024"},
    {"ValueSize", [](TinyModel& m) { m.ints["llama.attention.value_length"] = 32; }, kUnimplemented,
     "values of another size (32) than keys (16) are not supported"},
    {"NoLayers", [](TinyModel& m) { m.ints["llama.block_count"] = 0; }, kInvalid,
     "metadata key llama.block_count is 0; it must be from 1 to 1024"},
    {"TooManyLayers", [](TinyModel& m) { m.ints["llama.block_count"] = 4000000000u; }, kInvalid,
     "metadata key llama.block_count is 4000000000; it must be from 1 to 1024"},
    {"MissingSize", [](TinyModel& m) { m.ints.erase("llama.embedding_length"); }, kInvalid,
     "metadata key llama.embedding_length is missing"},
    {"SizeOfAnotherType",
     [](TinyModel& m) {
       m.ints.erase("llama.context_length");
       m.strings["llama.context_length"] = "128";
     },
     kInvalid, "metadata key llama.context_length is not an integer"},
    {"Epsilon",
     [](TinyModel& m) {
       m.floats["llama.attention.layer_norm_rms_epsilon"] = std::numeric_limits<float>::quiet_NaN();
     },
     kInvalid, "metadata key llama.attention.layer_norm_rms_epsilon is nan; it must be from"},
    {"UnevenKvHeads",
     [](TinyModel& m) {
       m.ints["llama.attention.head_count"] = 4;
       m.ints["llama.attention.head_count_kv"] = 3;
     },
     kInvalid, "4 query heads cannot share 3 KV heads evenly"},
    {"UnevenHeads", [](TinyModel& m) { m.ints["llama.attention.head_count"] = 3; }, kInvalid,
     "the width 32 does not divide into 3 heads, and llama.attention.key_length is missing"},
    {"RopeDimTooLarge", [](TinyModel& m) { m.ints["llama.rope.dimension_count"] = 18; }, kInvalid,
     "metadata key llama.rope.dimension_count is 18; it must be from 2 to 16"},
    {"RopeDimOdd", [](TinyModel& m) { m.ints["llama.rope.dimension_count"] = 7; }, kInvalid,
     "metadata key llama.rope.dimension_count is 7; it must be even"},
    {"RopeFactorsShape", [](TinyModel& m) { m.shapes["rope_freqs.weight"] = {4}; }, kInvalid,
     "the tensor rope_freqs.weight has not one factor for each of the 8 rotated pairs"},
    {"RopeFactorsZero", [](TinyModel& m) { m.shapes["rope_freqs.weight"] = {8}; }, kInvalid,
     "the tensor rope_freqs.weight holds 0; factors must be positive"},
    {"NoEmbedding", [](TinyModel& m) { m.shapes.erase("token_embd.weight"); }, kInvalid,
     "the tensor token_embd.weight is missing"},
    {"EmbeddingNoMatrix", [](TinyModel& m) { m.shapes["token_embd.weight"] = {4}; }, kInvalid,
     "the tensor token_embd.weight is not a matrix"},
    {"TokenizerOfAnotherSize",
     [](TinyModel& m) {
       m.string_arrays["tokenizer.ggml.tokens"] = {"a", "b"};
     },
     kInvalid, "the tokenizer has 2 tokens but token_embd.weight has 4 rows"},
    {"MissingTensor", [](TinyModel& m) { m.shapes.erase("blk.1.ffn_up.weight"); }, kInvalid,
     "the tensor blk.1.ffn_up.weight is missing"},
    {"TensorShape",
     [](TinyModel& m) {
       m.shapes["blk.0.ffn_down.weight"] = {64, 32};
     },
     kInvalid, "the tensor blk.0.ffn_down.weight has the shape [64, 32] instead of [32, 64]"},
    {"PartOfTheBiases", [](TinyModel& m) { m.shapes["blk.0.attn_q.bias"] = {32}; }, kInvalid,
     "the tensor blk.0.attn_k.bias is missing"},
    {"UnknownTensor", [](TinyModel& m) { m.shapes["blk.0.attn_q_norm.weight"] = {16}; },
     kUnimplemented, "the tensor blk.0.attn_q_norm.weight is not supported in llama models"},
};

class RefusedConfigTest : public testing::TestWithParam<RefusedCase> {};

TEST_P(RefusedConfigTest, NamesWhatIsWrong) {
  TinyModel model("llama");
  GetParam().change(model);
  const absl::Status status = Read(model).status();
  EXPECT_EQ(status.code(), GetParam().code) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(Models, RefusedConfigTest, testing::ValuesIn(kRefusedCases),
                         [](const testing::TestParamInfo<RefusedCase>& info) {
                           return info.param.name;
                         });

TEST(ModelConfigTest, Qwen2WithoutBiasesIsRefused) {
  const absl::Status status = Read(TinyModel("qwen2")).status();
  EXPECT_EQ(status.code(), kInvalid);
  EXPECT_THAT(std::string(status.message()), HasSubstr("blk.0.attn_q.bias is missing"));
}

}  // namespace
}  // namespace winnow
