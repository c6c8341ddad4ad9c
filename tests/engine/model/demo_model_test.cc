#include <cmath>
#include <cstdlib>

#include "engine/model/config.h"
#include "engine/model/gguf.h"
#include "engine/model/kv_layout.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace winnow {
namespace {

using testing::ElementsAre;

/// Numbers as the gguf Python package's reader prints them.
TEST(DemoModelTest, FileHoldsWhatTheReferenceReaderFinds) {
  const char* path = std::getenv("WINNOW_DEMO_MODEL");
  ASSERT_NE(path, nullptr) << "set WINNOW_DEMO_MODEL to the demo model's file";
  const auto file = GgufFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();

  EXPECT_EQ((*file)->file_bytes(), 98362432);
  EXPECT_EQ((*file)->metadata().size(), 33u);
  EXPECT_EQ((*file)->tensors().size(), 272u);
  EXPECT_EQ((*file)->GetString("general.architecture").value(), "llama");
  EXPECT_EQ((*file)->GetInt("llama.context_length").value(), 8192);
  EXPECT_EQ((*file)->GetStrings("tokenizer.ggml.tokens").value()->size(), 49152u);
  EXPECT_EQ((*file)->GetStrings("tokenizer.ggml.merges").value()->size(), 48900u);
  EXPECT_EQ((*file)->GetInts("tokenizer.ggml.token_type").value()->size(), 49152u);
  EXPECT_FALSE((*file)->GetBool("tokenizer.ggml.add_bos_token").value());

  const GgufFile::Tensor* embedding = (*file)->FindTensor("token_embd.weight");
  ASSERT_NE(embedding, nullptr);
  EXPECT_EQ(embedding->type, DataType::kQ8_0);
  EXPECT_THAT(embedding->shape, ElementsAre(49152, 576));
  EXPECT_EQ(embedding->data.size(), 30081024u);
  const GgufFile::Tensor* down = (*file)->FindTensor("blk.29.ffn_down.weight");
  ASSERT_NE(down, nullptr);
  EXPECT_EQ(down->type, DataType::kQ4_1);
  EXPECT_THAT(down->shape, ElementsAre(576, 1536));
}

TEST(DemoModelTest, ConfigIsTheModelsPublishedOne) {
  const char* path = std::getenv("WINNOW_DEMO_MODEL");
  ASSERT_NE(path, nullptr) << "set WINNOW_DEMO_MODEL to the demo model's file";
  const auto file = GgufFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  const auto config = ModelConfig::FromGguf(**file);
  ASSERT_TRUE(config.ok()) << config.status();

  EXPECT_EQ(config->architecture, "llama");
  EXPECT_EQ(config->name, "Smollm2 135M 8k Lc100K Mix1 Ep2");
  EXPECT_EQ(config->layers, 30);
  EXPECT_EQ(config->hidden, 576);
  EXPECT_EQ(config->ffn, 1536);
  EXPECT_EQ(config->heads, 9);
  EXPECT_EQ(config->kv_heads, 3);
  EXPECT_EQ(config->head_dim, 64);
  EXPECT_EQ(config->vocab, 49152);
  EXPECT_EQ(config->max_context, 8192);
  EXPECT_EQ(config->norm_epsilon, 1e-5f);
  EXPECT_EQ(config->ropes[0].dim, 64);
  ASSERT_EQ(config->ropes[0].frequencies.size(), 32u);
  EXPECT_EQ(config->ropes[0].frequencies[0], 1);
  EXPECT_NEAR(config->ropes[0].frequencies[16], 1 / std::sqrt(100000.0), 1e-12);
  EXPECT_TRUE(config->tied_embeddings);
  EXPECT_EQ(KvBytesPerToken(*config), 23040);
}

}  // namespace
}  // namespace winnow
