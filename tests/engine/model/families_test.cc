// Every model family against Hugging Face transformers, on tiny models of random weights
// (tests/golden/README.md, families).

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "engine/cache/kv_pools.h"
#include "engine/cache/kv_store.h"
#include "engine/model/checkpoint.h"
#include "engine/model/config.h"
#include "engine/model/kv_layout.h"
#include "engine/model/transformer.h"
#include "gtest/gtest.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/devices/create_backend.h"
#include "kernels/logits.h"
#include "kernels/step_batch_builder.h"

namespace winnow {
namespace {

constexpr const char* kFolder = "tests/golden/families/";
constexpr int kBlockTokens = 16;
constexpr int kSequenceBlocks = 18;  // for the longest prompt with its continuation
constexpr int kMaxSequences = 5;
constexpr int kStepTokens = 512;

/// The models in kFolder that are compared.
constexpr const char* kModels[] = {"llama",        "llama_linear", "llama3",       "llama_yarn",
                                   "llama_bias",   "mistral",      "mixtral",      "qwen2",
                                   "qwen2_window", "qwen3",        "qwen3_window", "qwen3_moe",
                                   "phi3",         "gemma2",       "gemma3"};

/// The folders in kFolder that are quantised; there are no GGUF files of them.
constexpr const char* kQuantizedModels[] = {"llama_fp8", "llama_gptq", "mixtral_awq", "qwen2_gptq8",
                                            "qwen3_fp8"};

/// How near logits must come to those of transformers.
struct Tolerance {
  double logits;  ///< largest difference, in deviations of a row's logits
  double margin;  ///< choices by less than this, in the same unit, may differ
  /// So may all that follows from the choice of an expert by less than this, in deviations of the
  /// router's logits.
  double expert_margin;
};
// Keys and values are kept in fp16 here and in fp32 there.
constexpr Tolerance kF32 = {.logits = 1e-3, .margin = 2e-3, .expert_margin = 2e-4};
// Products of bf16 factors, which have 8 bits.
constexpr Tolerance kBf16 = {.logits = 0.1, .margin = 0.2, .expert_margin = 0.03};

/// A prompt with what transformers continues it with, and of each of its positions what it
/// computes.
struct GoldenPrompt {
  std::vector<int32_t> tokens;        ///< the prompt and all but the last of what follows it
  size_t prompt = 0;                  ///< of them, the prompt's
  int context = 0;                    ///< what the model is loaded for
  std::vector<int32_t> argmax;        ///< [tokens]
  std::vector<float> margins;         ///< [tokens] of them, in deviations of the row's logits
  std::vector<float> expert_margins;  ///< [tokens] the least of all layers; empty without experts
  /// Some rows' logits, [vocab], and their standard deviations.
  std::map<int, std::pair<std::vector<float>, double>> rows;
};

std::vector<GoldenPrompt> ReadGolden(const std::string& model) {
  const auto json = nlohmann::json::parse(std::ifstream(kFolder + model + ".json"));
  std::vector<float> logits(std::filesystem::file_size(kFolder + model + ".logits") /
                            sizeof(float));
  std::ifstream(kFolder + model + ".logits", std::ios::binary)
      .read(reinterpret_cast<char*>(logits.data()),
            static_cast<std::streamsize>(logits.size() * sizeof(float)));
  const size_t vocab = json["vocab"];
  std::vector<GoldenPrompt> prompts;
  for (const auto& golden : json["prompts"]) {
    GoldenPrompt prompt;
    prompt.tokens = golden["tokens"].get<std::vector<int32_t>>();
    prompt.prompt = prompt.tokens.size();
    prompt.context = golden["context"];
    prompt.argmax = golden["argmax"].get<std::vector<int32_t>>();
    prompt.margins = golden["margins"].get<std::vector<float>>();
    prompt.expert_margins = golden.value("expert_margins", std::vector<float>());
    const std::vector<int32_t> continuation = golden["continuation"];
    prompt.tokens.insert(prompt.tokens.end(), continuation.begin(), continuation.end() - 1);
    size_t offset = golden["logits_offset"];
    for (size_t i = 0; i < golden["rows"].size(); ++i, offset += vocab) {
      const auto begin = logits.begin() + static_cast<std::ptrdiff_t>(offset);
      prompt.rows[golden["rows"][i]] = {{begin, begin + static_cast<std::ptrdiff_t>(vocab)},
                                        golden["deviations"][i]};
    }
    prompts.push_back(std::move(prompt));
  }
  return prompts;
}

/// A model on a backend, with room for kMaxSequences.
class LoadedFamily {
 public:
  /// Loads the file's model for sequences of up to `context` tokens.
  void Load(const std::string& path, int context, Backend& backend) {
    auto checkpoint = Checkpoint::Open(path, context);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    checkpoint_ = *std::move(checkpoint);
    const ModelConfig& config = checkpoint_->config();
    ASSERT_LE(context, config.max_context);
    auto pools =
        KvPools::Allocate(backend, KvLayout(config, {.blocks = kMaxSequences * kSequenceBlocks,
                                                     .block_tokens = kBlockTokens}));
    ASSERT_TRUE(pools.ok()) << pools.status();
    pools_ = *std::move(pools);
    auto transformer = Transformer::Load(checkpoint_->weights(), config, backend, *pools_,
                                         {.max_step_tokens = kStepTokens});
    ASSERT_TRUE(transformer.ok()) << transformer.status();
    transformer_ = *std::move(transformer);
  }

  Transformer& transformer() { return *transformer_; }

 private:
  std::unique_ptr<Checkpoint> checkpoint_;
  std::unique_ptr<KvPools> pools_;
  std::unique_ptr<Transformer> transformer_;
};

/// Compares a row's logits, and returns their largest difference in deviations: 0 where only the
/// choice is known.
double Compare(const GoldenPrompt& prompt, size_t position, std::span<const float> logits,
               const Tolerance& tolerance) {
  if (!prompt.expert_margins.empty() && prompt.expert_margins[position] < tolerance.expert_margin) {
    return 0;
  }
  if (prompt.margins[position] >= tolerance.margin) {
    EXPECT_EQ(LargestLogit(logits), prompt.argmax[position]) << "position " << position;
  }
  const auto row = prompt.rows.find(static_cast<int>(position));
  if (row == prompt.rows.end()) return 0;
  const auto& [expected, deviation] = row->second;
  double worst = 0;
  for (size_t token = 0; token < logits.size(); ++token) {
    worst = std::max(worst, std::abs(logits[token] - expected[token]) / deviation);
  }
  return worst;
}

/// Overwrites blocks that were given back: who still read them would get no number.
void Poison(Transformer& model, Backend& backend, std::span<const int32_t> blocks) {
  for (int layer = 0; layer < model.config().layers; ++layer) {
    const KvView& kv = model.pools().Layer(layer);
    const std::vector<uint16_t> nan(static_cast<size_t>(kv.block_bytes()) / sizeof(uint16_t),
                                    0x7e00);
    for (const int32_t block : blocks) {
      backend.Copy(kv.block(block), reinterpret_cast<const std::byte*>(nan.data()),
                   kv.block_bytes());
    }
  }
}

class NoCopies : public BlockMemory {
 public:
  absl::Status Copy(const BlockCopy&) override { return absl::UnimplementedError("no forks"); }
};

/// Sequences whose blocks come and go as they do when they are served: those behind windows are
/// given back, and poisoned.
class ServedSequences {
 public:
  ServedSequences(Transformer& model, Backend& backend, size_t count, size_t step_rows)
      : model_(model),
        backend_(backend),
        store_(kMaxSequences * kSequenceBlocks * model.pools().groups(), kBlockTokens,
               {model.attention_shape().group_windows, static_cast<int>(step_rows), kBlockTokens},
               memory_),
        tables_(count) {}
  ~ServedSequences() {
    for (BlockTable& table : tables_) store_.Release(table);
  }

  /// The tables for rows up to `end`. `computed` tokens have been computed.
  std::span<const std::vector<int32_t>> Extend(size_t s, size_t computed, size_t end) {
    BlockTable& table = tables_[s];
    std::vector<int32_t> held;
    for (const auto& blocks : table.groups()) held.insert(held.end(), blocks.begin(), blocks.end());
    store_.FreeBehind(table, static_cast<int>(computed));
    std::erase_if(
        held, [&](int32_t block) { return block == kNoBlock || store_.pool().owners(block) > 0; });
    Poison(model_, backend_, held);
    EXPECT_TRUE(store_.Extend(table, static_cast<int>(computed), static_cast<int>(end)));
    return table.groups();
  }

 private:
  Transformer& model_;
  Backend& backend_;
  NoCopies memory_;
  KvStore store_;
  std::vector<BlockTable> tables_;
};

/// Computes prompts beside each other, at most `piece` rows of a prompt a step and then token by
/// token, and returns the largest difference in deviations.
double LargestDifference(Transformer& model, Backend& backend,
                         std::span<const GoldenPrompt* const> prompts, size_t piece,
                         const Tolerance& tolerance) {
  const auto vocab = static_cast<size_t>(model.vocab());
  std::vector<size_t> done(prompts.size());
  StepBatchBuilder builder(model.pools().groups());
  ServedSequences sequences(model, backend, prompts.size(), piece);
  double worst = 0;
  while (true) {
    builder.Clear();
    std::vector<std::pair<size_t, size_t>> rows;  // sequence, position
    for (size_t s = 0; s < prompts.size(); ++s) {
      const GoldenPrompt& prompt = *prompts[s];
      if (done[s] == prompt.tokens.size()) continue;
      const size_t end =
          done[s] < prompt.prompt ? std::min(done[s] + piece, prompt.prompt) : done[s] + 1;
      builder.BeginSequence(sequences.Extend(s, done[s], end));
      for (; done[s] < end; ++done[s]) {
        builder.AddRow(prompt.tokens[done[s]], static_cast<int32_t>(done[s]), {}, true);
        rows.emplace_back(s, done[s]);
      }
    }
    if (rows.empty()) return worst;
    std::vector<float> logits(rows.size() * vocab);
    const absl::Status status = model.Forward(builder.Build(), logits, {});
    EXPECT_TRUE(status.ok()) << status;
    for (size_t i = 0; i < rows.size(); ++i) {
      SCOPED_TRACE("prompt " + std::to_string(prompts[rows[i].first]->prompt));
      worst = std::max(worst, Compare(*prompts[rows[i].first], rows[i].second,
                                      std::span(logits).subspan(i * vocab, vocab), tolerance));
    }
  }
}

/// All prompts of a model alone, in pieces, and beside each other; prints the largest difference.
void ExpectGolden(const std::string& model, const std::string& file, Backend& backend,
                  const std::string& device, const Tolerance& tolerance) {
  const std::vector<GoldenPrompt> golden = ReadGolden(model);
  std::map<int, std::vector<const GoldenPrompt*>> by_context;
  for (const GoldenPrompt& prompt : golden) by_context[prompt.context].push_back(&prompt);
  double worst = 0;
  for (const auto& [context, prompts] : by_context) {
    LoadedFamily loaded;
    loaded.Load(kFolder + file, context, backend);
    if (testing::Test::HasFatalFailure()) return;
    const auto compute = [&](std::span<const GoldenPrompt* const> together, size_t piece) {
      SCOPED_TRACE("pieces of " + std::to_string(piece));
      worst = std::max(
          worst, LargestDifference(loaded.transformer(), backend, together, piece, tolerance));
    };
    for (size_t i = 0; i < prompts.size(); ++i) {
      const auto alone = std::span(prompts).subspan(i, 1);
      compute(alone, alone[0]->prompt);
      compute(alone, 7);
    }
    // Short prompts go on token by token beside pieces of long ones.
    compute(prompts, 48);
  }
  EXPECT_LT(worst, tolerance.logits);
  std::cout << file << " on " << device << ": " << worst << " deviations from transformers\n";
}

/// A model, and the file or folder of it.
class FamiliesTest : public testing::TestWithParam<std::tuple<const char*, const char*>> {
 protected:
  std::string model() const { return std::get<0>(GetParam()); }
  std::string file() const { return model() + std::get<1>(GetParam()); }
};

TEST_P(FamiliesTest, TheCpuComputesWhatTransformersDoes) {
  const auto backend = CreateCpuBackend({.threads = 2, .f32_matmul = true});
  ExpectGolden(model(), file(), *backend, "CPU", kF32);
}

TEST_P(FamiliesTest, CudaComputesWhatTransformersDoes) {
  const absl::StatusOr<std::unique_ptr<Backend>> backend = CreateBackend({.device = "cuda"});
  if (!backend.ok()) GTEST_SKIP() << backend.status().message();
  ExpectGolden(model(), file(), **backend, "CUDA", kBf16);
}

std::string TestName(const testing::TestParamInfo<std::tuple<const char*, const char*>>& test) {
  const bool is_gguf = std::get<1>(test.param)[0] != '\0';
  return std::string(std::get<0>(test.param)) + (is_gguf ? "_gguf" : "_folder");
}

INSTANTIATE_TEST_SUITE_P(Models, FamiliesTest,
                         testing::Combine(testing::ValuesIn(kModels), testing::Values(".gguf", "")),
                         TestName);
INSTANTIATE_TEST_SUITE_P(Quantized, FamiliesTest,
                         testing::Combine(testing::ValuesIn(kQuantizedModels), testing::Values("")),
                         TestName);

}  // namespace
}  // namespace winnow
