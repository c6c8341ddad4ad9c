#include <cstdlib>

#include "engine/model/gguf.h"
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

}  // namespace
}  // namespace winnow
