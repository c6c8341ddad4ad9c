#include "engine/model/model_spec.h"

#include <map>
#include <string>
#include <vector>

#include "engine/model/family.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/model/tiny_model.h"

namespace winnow {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

/// The sizes of TinyModel.
ModelConfig TinyConfig() {
  ModelConfig config;
  config.layers = 2;
  config.hidden = 32;
  config.ffn = 64;
  config.heads = 2;
  config.kv_heads = 1;
  config.head_dim = 16;
  config.vocab = 4;
  return config;
}

using Shapes = std::map<std::string, std::vector<uint64_t>>;

Shapes ShapesOf(const ModelSpec& spec) {
  Shapes shapes;
  for (const TensorSpec& tensor : spec.tensors) {
    const bool is_new =
        shapes.emplace(tensor.name, std::vector<uint64_t>(tensor.shape.begin(), tensor.shape.end()))
            .second;
    EXPECT_TRUE(is_new) << tensor.name << " is listed twice";
  }
  return shapes;
}

TEST(ModelSpecTest, ListsTheTensorsOfACompleteFile) {
  ModelConfig config = TinyConfig();
  config.tied_embeddings = true;
  TinyModel file("llama");
  EXPECT_EQ(ShapesOf(ModelSpec::Of(config)), file.shapes);

  config.tied_embeddings = false;
  config.qkv_bias = true;
  file.AddQkvBiases();
  file.shapes["output.weight"] = {4, 32};
  EXPECT_EQ(ShapesOf(ModelSpec::Of(config)), file.shapes);
}

TEST(ModelSpecTest, ListsTheTensorsOfEveryFamily) {
  for (const char* architecture : {"llama", "qwen2", "qwen3", "phi3", "gemma2", "gemma3"}) {
    SCOPED_TRACE(architecture);
    const Family& family = *FindFamily(architecture);
    ModelConfig config = TinyConfig();
    config.tied_embeddings = true;
    config.qkv_bias = family.qkv_bias;
    config.qk_norm = family.qk_norm;
    config.post_norms = family.post_norms;
    config.fused_qkv = family.fused_tensors;
    config.fused_gate_up = family.fused_tensors;
    EXPECT_EQ(ShapesOf(ModelSpec::Of(config)), TinyModel::Of(architecture).shapes);
  }
}

TEST(ModelSpecTest, NamesEveryListedTensorInItsPlace) {
  ModelConfig config = TinyConfig();
  config.qkv_bias = true;
  const ModelSpec spec = ModelSpec::Of(config);
  EXPECT_EQ(spec.embedding, "token_embd.weight");
  ASSERT_EQ(spec.blocks.size(), 2);
  const AttentionSpec& attention = spec.blocks[1].attention;
  EXPECT_EQ(attention.norm, "blk.1.attn_norm.weight");
  EXPECT_THAT(attention.qkv.weights,
              ElementsAre("blk.1.attn_q.weight", "blk.1.attn_k.weight", "blk.1.attn_v.weight"));
  EXPECT_THAT(attention.qkv.biases,
              ElementsAre("blk.1.attn_q.bias", "blk.1.attn_k.bias", "blk.1.attn_v.bias"));
  EXPECT_THAT(attention.output.weights, ElementsAre("blk.1.attn_output.weight"));
  EXPECT_THAT(attention.output.biases, IsEmpty());
  EXPECT_THAT(attention.query_norm, IsEmpty());
  EXPECT_THAT(attention.post_norm, IsEmpty());
  const FeedForwardSpec& feed_forward = spec.blocks[1].feed_forward;
  EXPECT_EQ(feed_forward.norm, "blk.1.ffn_norm.weight");
  EXPECT_THAT(feed_forward.gate_up.weights,
              ElementsAre("blk.1.ffn_gate.weight", "blk.1.ffn_up.weight"));
  EXPECT_THAT(feed_forward.down.weights, ElementsAre("blk.1.ffn_down.weight"));
  EXPECT_EQ(spec.output_norm, "output_norm.weight");
  EXPECT_THAT(spec.output.weights, ElementsAre("output.weight"));
  EXPECT_EQ(spec.tensors.size(), 3 + 2 * 12);
}

TEST(ModelSpecTest, NamesBiasesInTheirPlaces) {
  ModelConfig config = TinyConfig();
  config.output_bias = true;
  config.ffn_bias = true;
  const BlockSpec block = ModelSpec::Of(config).blocks[1];
  EXPECT_THAT(block.attention.output.biases, ElementsAre("blk.1.attn_output.bias"));
  EXPECT_THAT(block.feed_forward.gate_up.biases,
              ElementsAre("blk.1.ffn_gate.bias", "blk.1.ffn_up.bias"));
  EXPECT_THAT(block.feed_forward.down.biases, ElementsAre("blk.1.ffn_down.bias"));
}

TEST(ModelSpecTest, NamesNormsAndFusedMatricesInTheirPlaces) {
  ModelConfig config = TinyConfig();
  config.qk_norm = true;
  config.post_norms = true;
  config.fused_qkv = true;
  config.fused_gate_up = true;
  const BlockSpec block = ModelSpec::Of(config).blocks[0];
  EXPECT_THAT(block.attention.qkv.weights, ElementsAre("blk.0.attn_qkv.weight"));
  EXPECT_EQ(block.attention.query_norm, "blk.0.attn_q_norm.weight");
  EXPECT_EQ(block.attention.key_norm, "blk.0.attn_k_norm.weight");
  EXPECT_EQ(block.attention.post_norm, "blk.0.post_attention_norm.weight");
  EXPECT_THAT(block.feed_forward.gate_up.weights, ElementsAre("blk.0.ffn_up.weight"));
  EXPECT_EQ(block.feed_forward.post_norm, "blk.0.post_ffw_norm.weight");
}

TEST(ModelSpecTest, ListsExpertsInPlaceOfTheFeedForwardNetwork) {
  ModelConfig config = TinyConfig();
  config.tied_embeddings = true;
  config.mixture = {.experts = 8, .chosen = 2, .ffn = 64};
  TinyModel file("llama");
  file.AddExperts(8, 2);
  const ModelSpec spec = ModelSpec::Of(config);
  EXPECT_EQ(ShapesOf(spec), file.shapes);
  ASSERT_TRUE(spec.blocks[1].experts.has_value());
  const ExpertSpec& experts = *spec.blocks[1].experts;
  EXPECT_EQ(experts.norm, "blk.1.ffn_norm.weight");
  EXPECT_THAT(experts.router.weights, ElementsAre("blk.1.ffn_gate_inp.weight"));
  EXPECT_THAT(experts.gate_up,
              ElementsAre("blk.1.ffn_gate_exps.weight", "blk.1.ffn_up_exps.weight"));
  EXPECT_THAT(experts.down, ElementsAre("blk.1.ffn_down_exps.weight"));
}

TEST(ModelSpecTest, ATiedOutputIsTheEmbedding) {
  ModelConfig config = TinyConfig();
  config.tied_embeddings = true;
  const ModelSpec spec = ModelSpec::Of(config);
  EXPECT_THAT(spec.output.weights, ElementsAre(spec.embedding));
}

TEST(FamilyTest, IsFoundByItsArchitecture) {
  for (const char* architecture : {"llama", "qwen2", "qwen3", "phi3", "gemma2", "gemma3"}) {
    const Family* family = FindFamily(architecture);
    ASSERT_NE(family, nullptr);
    EXPECT_EQ(family->architecture, architecture);
  }
  EXPECT_EQ(FindFamily("mamba"), nullptr);
  EXPECT_EQ(FamilyNames(), "llama, qwen2, qwen3, qwen3moe, phi3, gemma2 and gemma3");
}

}  // namespace
}  // namespace winnow
