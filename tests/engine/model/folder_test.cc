// Hugging Face folders: that they are the models that GGUF files of the same weights are.

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <numeric>
#include <string>
#include <vector>

#include "engine/cache/kv_pools.h"
#include "engine/model/checkpoint.h"
#include "engine/model/fingerprint.h"
#include "engine/model/kv_layout.h"
#include "engine/model/transformer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cpu/cpu_backend.h"
#include "tests/engine/model/gguf_writer.h"
#include "tests/engine/model/tiny_folder.h"
#include "tests/engine/model/tiny_model.h"

namespace winnow {
namespace {

using testing::HasSubstr;

constexpr int kHeadDim = 16;

std::vector<float> Widened(const FolderTensor& tensor) {
  const DataType type = tensor.type == "F32"   ? DataType::kF32
                        : tensor.type == "F16" ? DataType::kF16
                                               : DataType::kBF16;
  std::vector<float> values(tensor.bytes.size() / (tensor.type == "F32" ? 4 : 2));
  Dequantize(type, reinterpret_cast<const std::byte*>(tensor.bytes.data()),
             static_cast<int64_t>(values.size()), values.data());
  return values;
}

/// What llama.cpp's converter makes of llama's queries and keys: heads are reshaped to
/// [2, half, columns] and the first two axes swapped.
std::string Permuted(const std::string& bytes, size_t rows) {
  const size_t row_bytes = bytes.size() / rows;
  std::string permuted;
  for (size_t head = 0; head < rows; head += kHeadDim) {
    for (size_t pair = 0; pair < kHeadDim / 2; ++pair) {
      for (size_t part = 0; part < 2; ++part) {
        permuted += bytes.substr((head + part * (kHeadDim / 2) + pair) * row_bytes, row_bytes);
      }
    }
  }
  return permuted;
}

/// The GGUF file of a folder's model, as llama.cpp's converter writes it: matrices as they are,
/// vectors in fp32.
std::vector<std::byte> Converted(const TinyFolder& folder, const std::string& architecture) {
  TinyModel model(architecture);
  model.shapes.clear();
  GgufWriter writer = model.Write();
  const std::pair<const char*, const char*> names[] = {{"input_layernorm", "attn_norm"},
                                                       {"self_attn.q_proj", "attn_q"},
                                                       {"self_attn.k_proj", "attn_k"},
                                                       {"self_attn.v_proj", "attn_v"},
                                                       {"self_attn.o_proj", "attn_output"},
                                                       {"post_attention_layernorm", "ffn_norm"},
                                                       {"mlp.gate_proj", "ffn_gate"},
                                                       {"mlp.up_proj", "ffn_up"},
                                                       {"mlp.down_proj", "ffn_down"},
                                                       {"model.layers.", "blk."},
                                                       {"model.embed_tokens", "token_embd"},
                                                       {"model.norm", "output_norm"},
                                                       {"lm_head", "output"}};
  for (const auto& [name, tensor] : folder.tensors) {
    std::string gguf = name;
    for (const auto& [from, to] : names) {
      const size_t at = gguf.find(from);
      if (at != std::string::npos) gguf.replace(at, std::strlen(from), to);
    }
    FolderTensor own = tensor;
    const bool turned =
        gguf.find("attn_q.") != std::string::npos || gguf.find("attn_k.") != std::string::npos;
    if (architecture == "llama" && turned) {
      own.bytes = Permuted(own.bytes, static_cast<size_t>(own.shape[0]));
    }
    const std::vector<uint64_t> shape(own.shape.begin(), own.shape.end());
    if (shape.size() == 1) {
      writer.TensorF32(gguf, shape, Widened(own));
      continue;
    }
    const uint32_t type = own.type == "F32" ? 0 : own.type == "F16" ? 1 : 30;
    writer.Tensor(gguf, shape, type, std::as_bytes(std::span(own.bytes)));
  }
  return writer.Bytes();
}

/// Logits of a few tokens: all positions.
std::vector<float> Logits(const Checkpoint& checkpoint) {
  constexpr int kTokens = 7;
  const auto backend = CreateCpuBackend({.threads = 1});
  const auto pools =
      KvPools::Allocate(*backend, KvLayout(checkpoint.config(), {.blocks = 1, .block_tokens = 16}));
  EXPECT_TRUE(pools.ok()) << pools.status();
  const auto transformer = Transformer::Load(checkpoint.weights(), checkpoint.config(), *backend,
                                             **pools, {.max_step_tokens = 16});
  EXPECT_TRUE(transformer.ok()) << transformer.status();
  const std::vector<int32_t> tokens = {0, 1, 2, 3, 2, 1, 0};
  std::vector<int32_t> positions(kTokens);
  std::iota(positions.begin(), positions.end(), 0);
  const std::vector<int32_t> query_begin = {0, kTokens};
  std::vector<int32_t> blocks(static_cast<size_t>((*pools)->groups()));  // one of each
  std::iota(blocks.begin(), blocks.end(), 0);
  std::vector<float> logits(static_cast<size_t>(kTokens * checkpoint.config().vocab));
  const absl::Status status = (*transformer)
                                  ->Forward({.tokens = tokens,
                                             .positions = positions,
                                             .query_begin = query_begin,
                                             .block_tables = blocks,
                                             .max_blocks = 1,
                                             .logit_rows = positions},
                                            logits, {});
  EXPECT_TRUE(status.ok()) << status;
  return logits;
}

struct Kind {
  const char* model_type;
  const char* architecture;
  const char* type;
};

class FolderTest : public testing::TestWithParam<Kind> {};

TEST_P(FolderTest, IsTheModelThatItsGgufFileIs) {
  TinyFolder tiny(GetParam().model_type, GetParam().type);
  const TemporaryFolder folder;
  tiny.Write(folder);
  const TemporaryFile file(Converted(tiny, GetParam().architecture));
  const auto a = Checkpoint::Open(folder.path());
  const auto b = Checkpoint::Open(file.path());
  ASSERT_TRUE(a.ok()) << a.status();
  ASSERT_TRUE(b.ok()) << b.status();
  EXPECT_EQ((*a)->config().architecture, GetParam().architecture);
  EXPECT_EQ(ModelFingerprint(**a), ModelFingerprint(**b));
  EXPECT_EQ((*a)->tensors().size(), (*b)->tensors().size());
  const std::vector<float> logits = Logits(**a);
  EXPECT_EQ(logits, Logits(**b));
  EXPECT_GT(*std::ranges::max_element(logits), *std::ranges::min_element(logits));
}

INSTANTIATE_TEST_SUITE_P(
    Kinds, FolderTest,
    testing::Values(Kind{"llama", "llama", "F32"}, Kind{"llama", "llama", "F16"},
                    Kind{"llama", "llama", "BF16"}, Kind{"mistral", "llama", "BF16"},
                    Kind{"qwen2", "qwen2", "F32"}, Kind{"qwen2", "qwen2", "BF16"}),
    [](const testing::TestParamInfo<Kind>& info) {
      return std::string(info.param.model_type) + info.param.type;
    });

TEST(FolderShardsTest, ShardsAreOneModel) {
  TinyFolder tiny("llama", "BF16");
  tiny.config["tie_word_embeddings"] = false;
  tiny.Add("lm_head.weight", "BF16", {4, 32});
  tiny.Add("model.layers.0.self_attn.rotary_emb.inv_freq", "F32", {8});  // of old files
  const TemporaryFolder whole;
  const TemporaryFolder parts;
  tiny.Write(whole);
  tiny.Write(parts, 3);
  const auto a = Checkpoint::Open(whole.path());
  const auto b = Checkpoint::Open(parts.path() + "/");
  ASSERT_TRUE(a.ok()) << a.status();
  ASSERT_TRUE(b.ok()) << b.status();
  EXPECT_FALSE((*a)->config().tied_embeddings);
  EXPECT_EQ((*b)->config().name, std::filesystem::path(parts.path()).filename());
  EXPECT_EQ(Logits(**a), Logits(**b));
  EXPECT_EQ(ModelFingerprint(**a), ModelFingerprint(**b));
}

TEST(FolderFingerprintTest, IsOfTheNumbersNotOfTheirType) {
  TinyFolder tiny("llama", "BF16");
  const TemporaryFolder narrow;
  tiny.Write(narrow);
  for (auto& [name, tensor] : tiny.tensors) {
    tensor = FolderTensor::Of("F32", tensor.shape, Widened(tensor));
  }
  const TemporaryFolder wide;
  tiny.Write(wide);
  tiny.tensors["model.layers.1.self_attn.k_proj.weight"].bytes[3] ^= 1;
  const TemporaryFolder other;
  tiny.Write(other);
  const auto a = Checkpoint::Open(narrow.path());
  const auto b = Checkpoint::Open(wide.path());
  const auto c = Checkpoint::Open(other.path());
  ASSERT_TRUE(a.ok() && b.ok() && c.ok());
  EXPECT_EQ(ModelFingerprint(**a), ModelFingerprint(**b));
  EXPECT_NE(ModelFingerprint(**a), ModelFingerprint(**c));
}

TEST(FolderTiedTest, ATableThatIsThereTwiceIsReadOnce) {
  TinyFolder tiny("llama");
  tiny.Add("lm_head.weight", "F32", {4, 32});
  const TemporaryFolder folder;
  tiny.Write(folder);
  const auto checkpoint = Checkpoint::Open(folder.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ((*checkpoint)->FindTensor("output.weight"), nullptr);
}

TEST(FolderWindowTest, MissingIsTransformersDefaultAndNullIsNone) {
  const auto window = [](const TinyFolder& tiny) {
    const TemporaryFolder folder;
    tiny.Write(folder);
    const auto checkpoint = Checkpoint::Open(folder.path());
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
    return checkpoint.ok() ? (*checkpoint)->config().layer[1].sliding_window : -1;
  };
  for (const char* model_type : {"mistral", "qwen2"}) {
    TinyFolder tiny(model_type);
    tiny.config["max_position_embeddings"] = 8192;
    tiny.config["use_sliding_window"] = true;
    tiny.config["max_window_layers"] = 1;
    EXPECT_EQ(window(tiny), 4096) << model_type;
    tiny.config["sliding_window"] = nullptr;
    EXPECT_EQ(window(tiny), 0) << model_type;
    tiny.config["sliding_window"] = 64;
    EXPECT_EQ(window(tiny), 64) << model_type;
  }
}

}  // namespace
}  // namespace winnow
