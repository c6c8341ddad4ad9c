// Every module against its equation in float64, on a tiny random model. Weights are fp32 and the
// CPU's products exact to rounding; keys and values are kept in fp16.

#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/model/attention_mixer.h"
#include "engine/model/build_blocks.h"
#include "engine/model/expert_feed_forward.h"
#include "engine/model/gated_feed_forward.h"
#include "engine/model/linear.h"
#include "engine/model/rms_norm.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/float16.h"
#include "tests/engine/model/module_fixture.h"

namespace winnow {
namespace {

using test::ExpectNear;
using test::Matrix64;
using test::ModuleFixture;
using test::RandomMatrix;
using test::RandomTinyModel;
using test::ReferenceModel;
using testing::HasSubstr;

constexpr double kFp32 = 1e-5;
constexpr double kFp16 = 2e-3;

/// Matrices and vectors that a test has made.
class OwnWeights : public WeightSource {
 public:
  void Add(const std::string& name, const Matrix64& rows, DataType type) {
    Entry& entry = entries_[name];
    entry.matrix = {
        type, static_cast<int64_t>(rows.size()), static_cast<int64_t>(rows[0].size()), {}};
    for (const std::vector<double>& row : rows) {
      for (const double value : row) {
        const auto number = static_cast<float>(value);
        const uint16_t half = FloatToHalf(number);
        const auto bytes = type == DataType::kF16 ? std::as_bytes(std::span(&half, 1))
                                                  : std::as_bytes(std::span(&number, 1));
        entry.bytes.insert(entry.bytes.end(), bytes.begin(), bytes.end());
      }
    }
    entry.matrix.data = entry.bytes;
  }

  HostWeight Weight(std::string_view name) const override {
    return entries_.find(name)->second.matrix;
  }
  void ReleasePages() const override {}

 private:
  struct Entry {
    std::vector<std::byte> bytes;
    HostMatrix matrix;
  };
  std::map<std::string, Entry, std::less<>> entries_;
};

TEST(LinearTest, StacksPartsOfSeveralTypesAndTheirBiases) {
  ModuleFixture fixture("llama");
  const Matrix64 top = RandomMatrix(24, 32, 1);
  const Matrix64 below = RandomMatrix(8, 32, 2);
  const Matrix64 top_bias = RandomMatrix(1, 24, 3);
  const Matrix64 below_bias = RandomMatrix(1, 8, 4);
  OwnWeights weights;
  weights.Add("top", top, DataType::kF32);
  weights.Add("below", below, DataType::kF16);
  weights.Add("top.bias", top_bias, DataType::kF32);
  weights.Add("below.bias", below_bias, DataType::kF16);
  const auto linear = Linear::Load({{"top", "below"}, {"top.bias", "below.bias"}},
                                   WeightLoader(weights, *fixture.backend));
  ASSERT_TRUE(linear.ok()) << linear.status();
  EXPECT_EQ(linear->totals().weights, 32 * 32);
  EXPECT_GT(linear->totals().bytes, 0);

  const Matrix64 x = RandomMatrix(5, 32, 6);
  Matrix64 expected(5, std::vector<double>(32));
  for (size_t t = 0; t < 5; ++t) {
    for (size_t n = 0; n < 32; ++n) {
      const std::vector<double>& row = n < 24 ? top[n] : below[n - 24];
      expected[t][n] = n < 24 ? top_bias[0][n] : below_bias[0][n - 24];
      for (size_t k = 0; k < 32; ++k) expected[t][n] += x[t][k] * row[k];
    }
  }
  const Activations a = fixture.activations(5);
  fixture.CopyToDevice(x, a.normed);
  linear->Run(*fixture.backend, a.normed, a.residual);
  ExpectNear(fixture.ToMatrix(a.residual), expected, 1e-3);  // one part is kept in fp16

  const Matrix64 before = RandomMatrix(5, 32, 7);
  fixture.CopyToDevice(before, a.residual);
  linear->AddTo(*fixture.backend, a.normed, a.residual);
  for (size_t t = 0; t < 5; ++t) {
    for (size_t n = 0; n < 32; ++n) expected[t][n] += before[t][n];
  }
  ExpectNear(fixture.ToMatrix(a.residual), expected, 1e-3);
}

TEST(LinearTest, AnErrorNamesTheTensor) {
  ModuleFixture fixture("llama");
  OwnWeights weights;
  weights.Add("narrow", RandomMatrix(4, 16, 1), DataType::kF32);
  weights.Add("wide", RandomMatrix(4, 32, 2), DataType::kF32);
  const absl::Status status =
      Linear::Load({{"narrow", "wide"}, {}}, WeightLoader(weights, *fixture.backend)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("tensor narrow: "));
}

TEST(RmsNormTest, IsItsEquation) {
  ModuleFixture fixture("llama");
  const auto norm =
      RmsNorm::Load(fixture.spec.output_norm, fixture.config.norm_epsilon, fixture.loader);
  ASSERT_TRUE(norm.ok()) << norm.status();
  const Matrix64 x = RandomMatrix(3, 32, 1);
  const Activations a = fixture.activations(3);
  fixture.CopyToDevice(x, a.residual);
  norm->Run(*fixture.backend, a.residual, a.normed);
  ExpectNear(fixture.ToMatrix(a.normed), fixture.reference.Normed(x, "output_norm.weight"), kFp32);
}

class GatedFeedForwardTest : public testing::TestWithParam<const char*> {};

TEST_P(GatedFeedForwardTest, AddsItsEquationToTheResidualStream) {
  ModuleFixture fixture(GetParam());
  const auto module =
      GatedFeedForward::Load(fixture.spec.blocks[1].feed_forward, fixture.config.activation,
                             fixture.config.norm_epsilon, fixture.loader);
  ASSERT_TRUE(module.ok()) << module.status();
  const Matrix64 x = RandomMatrix(9, 32, 1);
  ExpectNear(fixture.Run(**module, x, 0), fixture.reference.AfterFeedForward(x, 1), kFp32);
  EXPECT_EQ((*module)->totals().weights, 3 * 32 * 64);
}

INSTANTIATE_TEST_SUITE_P(Families, GatedFeedForwardTest, testing::Values("llama", "phi3", "gemma2"),
                         [](const testing::TestParamInfo<const char*>& info) {
                           return std::string(info.param);
                         });

/// A model of 5 experts, of which rows choose 2.
TinyModel ExpertShapes() {
  TinyModel shapes = TinyModel::Of("llama");
  shapes.AddExperts(5, 2);
  return shapes;
}

TEST(ExpertFeedForwardTest, AddsItsEquationToTheResidualStream) {
  ModuleFixture fixture(ExpertShapes());
  for (const bool normalizes : {true, false}) {
    ModelConfig config = fixture.config;
    config.mixture.normalizes = normalizes;
    const auto module = ExpertFeedForward::Load(
        *fixture.spec.blocks[1].experts,
        {.mixture = config.mixture, .norm_epsilon = config.norm_epsilon}, fixture.loader);
    ASSERT_TRUE(module.ok()) << module.status();
    const ReferenceModel reference(*fixture.model.checkpoint->gguf(), config);
    const Matrix64 x = RandomMatrix(9, 32, 1);
    ExpectNear(fixture.Run(**module, x, 0), reference.AfterFeedForward(x, 1), kFp32);

    const int64_t expert = 3 * 32 * 64;
    EXPECT_EQ((*module)->totals().weights, 5 * 32 + 2 * expert);
    EXPECT_EQ((*module)->totals().expert_bytes, 5 * expert * static_cast<int64_t>(sizeof(float)));
    EXPECT_EQ((*module)->totals().bytes, CpuMatrixBytes(DataType::kF32, 5, 32));
  }
}

/// The attention of layer 1.
std::unique_ptr<Mixer> LoadAttention(const ModuleFixture& fixture,
                                     const SelectionOptions& options = {}) {
  const ModelConfig& config = fixture.config;
  const auto rope = static_cast<size_t>(config.layer[1].rope);
  auto mixer = AttentionMixer::Load(fixture.spec.blocks[1].attention,
                                    {.layer = 1,
                                     .heads = config.heads,
                                     .kv_heads = config.kv_heads,
                                     .head_dim = config.head_dim,
                                     .norm_epsilon = config.norm_epsilon,
                                     .rope = fixture.ropes()[rope]},
                                    LayerSelection(options, config, 1), fixture.loader);
  EXPECT_TRUE(mixer.ok()) << mixer.status();
  return *std::move(mixer);
}

Matrix64 Slice(const Matrix64& x, size_t begin, size_t end) {
  return {x.begin() + static_cast<std::ptrdiff_t>(begin),
          x.begin() + static_cast<std::ptrdiff_t>(end)};
}

class AttentionMixerTest : public testing::TestWithParam<const char*> {};

TEST_P(AttentionMixerTest, AttendsToAllTokensOfTheSequenceWhateverTheSteps) {
  ModuleFixture fixture(GetParam());
  const std::unique_ptr<Mixer> mixer = LoadAttention(fixture);
  const Matrix64 x = RandomMatrix(20, 32, 1);
  const Matrix64 expected =
      fixture.reference.AfterAttention(x, 1, [](size_t, size_t) { return true; });
  ExpectNear(fixture.Run(*mixer, Slice(x, 0, 13), 0), Slice(expected, 0, 13), kFp16);
  ExpectNear(fixture.Run(*mixer, Slice(x, 13, 19), 13), Slice(expected, 13, 19), kFp16);
  ExpectNear(fixture.Run(*mixer, Slice(x, 19, 20), 19), Slice(expected, 19, 20), kFp16);
  EXPECT_EQ(mixer->totals().weights, 32 * (32 + 16 + 16) + 32 * 32);
}

INSTANTIATE_TEST_SUITE_P(Families, AttentionMixerTest,
                         testing::Values("llama", "qwen2", "qwen3", "phi3", "gemma2", "gemma3"),
                         [](const testing::TestParamInfo<const char*>& info) {
                           return std::string(info.param);
                         });

// Sinks 1, window 3, and a budget of just these.
constexpr SelectionOptions kNarrow = {.sinks = 1, .window = 3};
constexpr Selection kWindowRow = {.kind = SelectionKind::kWindow, .budget_tokens = 4};
bool InNarrowWindow(size_t t, size_t j) { return j < 1 || j + 3 > t; }

TEST(AttentionMixerTest, AttendsToWhatTheRowsSelect) {
  ModuleFixture fixture("llama");
  const std::unique_ptr<Mixer> mixer = LoadAttention(fixture, kNarrow);
  const Matrix64 x = RandomMatrix(20, 32, 1);
  ExpectNear(fixture.Run(*mixer, x, 0, kWindowRow),
             fixture.reference.AfterAttention(x, 1, InNarrowWindow), kFp16);

  KvTraffic traffic;
  mixer->AddTraffic(kWindowRow, 20, &traffic);
  const int64_t token_bytes = 2 * 16 * 2;
  EXPECT_EQ(traffic.row_bytes, 4 * token_bytes);
  EXPECT_EQ(traffic.attended_tokens, 4);
  EXPECT_EQ(traffic.context_tokens, 20);
  EXPECT_EQ(traffic.equivalent_bytes, 20 * token_bytes);
  EXPECT_EQ(traffic.heads, 1);
  mixer->AddTraffic({}, 20, &traffic);
  EXPECT_EQ(traffic.dense_bytes, 20 * token_bytes);
  EXPECT_EQ(traffic.row_bytes, 4 * token_bytes);
  EXPECT_EQ(traffic.heads, 2);
}

TEST(AttentionMixerTest, MeasuresTheRecallOfItsOwnProbes) {
  ModuleFixture fixture("llama");
  const std::unique_ptr<Mixer> mixer = LoadAttention(fixture, kNarrow);
  const Matrix64 x = RandomMatrix(20, 32, 1);
  const std::vector<RecallProbe> probes = {
      {.row = 7, .layer = 0}, {.row = 3, .layer = 1}, {.row = 19, .layer = 1}};
  std::vector<ProbedMass> probed(3, {.recall = -1});
  fixture.Run(*mixer, x, 0, kWindowRow, probes, probed);

  const Matrix64 qkv = fixture.reference.Qkv(x, 1);
  const auto recall = [&](size_t t) {
    double mass = 0;
    for (int head = 0; head < 2; ++head) {
      const std::vector<double> weights =
          fixture.reference.AttentionWeights(qkv, 1, t, head, [](size_t, size_t) { return true; });
      for (size_t j = 0; j <= t; ++j) mass += InNarrowWindow(t, j) ? weights[j] / 2 : 0;
    }
    return mass;
  };
  EXPECT_EQ(probed[0].recall, -1);
  EXPECT_EQ(probed[1].recall, 1);  // a context of four tokens, all selected
  EXPECT_LT(probed[2].recall, 0.99);
  EXPECT_NEAR(probed[2].recall, recall(19), kFp16);
}

TEST(AttentionMixerTest, RowsOfALayerWithAWindowSeeAndReadItAlone) {
  TinyModel shapes = TinyModel::Of("llama");
  shapes.ints["llama.attention.sliding_window"] = 6;
  ModuleFixture fixture(shapes);
  const std::unique_ptr<Mixer> mixer = LoadAttention(fixture, kNarrow);
  const Matrix64 x = RandomMatrix(20, 32, 1);
  const Matrix64 expected =
      fixture.reference.AfterAttention(x, 1, [](size_t, size_t) { return true; });
  ExpectNear(fixture.Run(*mixer, Slice(x, 0, 13), 0), Slice(expected, 0, 13), kFp16);
  const std::vector<RecallProbe> probes = {{.row = 6, .layer = 1}};
  std::vector<ProbedMass> probed(1);
  ExpectNear(fixture.Run(*mixer, Slice(x, 13, 20), 13, kWindowRow, probes, probed),
             Slice(expected, 13, 20), kFp16);
  EXPECT_EQ(probed[0].recall, 1);

  KvTraffic traffic;
  mixer->AddTraffic(kWindowRow, 20, &traffic);
  const int64_t token_bytes = 2 * 16 * 2;
  EXPECT_EQ(traffic.dense_bytes, 6 * token_bytes);
  EXPECT_EQ(traffic.row_bytes, 0);
  EXPECT_EQ(traffic.attended_tokens, 6);
  EXPECT_EQ(traffic.context_tokens, 6);
  EXPECT_EQ(traffic.equivalent_bytes, 6 * token_bytes);

  // A prompt's rows at 10 to 14 see what lies from 5 on, those at 2 to 4 all.
  traffic = {};
  mixer->AddPromptTraffic(10, 15, &traffic);
  EXPECT_EQ(traffic.dense_bytes, 10 * token_bytes);
  EXPECT_EQ(traffic.equivalent_bytes, 10 * token_bytes);
  mixer->AddPromptTraffic(2, 5, &traffic);
  EXPECT_EQ(traffic.dense_bytes, 15 * token_bytes);
}

TEST(AttentionMixerTest, ShowsQueriesKeysValuesAndItsInputToTheObserver) {
  ModuleFixture fixture("llama");
  const std::unique_ptr<Mixer> mixer = LoadAttention(fixture);
  const Matrix64 x = RandomMatrix(6, 32, 1);
  std::vector<int> layers;
  fixture.observer = [&](int layer, const Tensor& qkv, const Tensor& residual) {
    layers.push_back(layer);
    ExpectNear(fixture.ToMatrix(qkv), fixture.reference.Qkv(x, 1), kFp32);
    EXPECT_EQ(fixture.ToMatrix(residual), x);
  };
  fixture.Run(*mixer, x, 0);
  EXPECT_THAT(layers, testing::ElementsAre(1));
}

TEST(BuildBlocksTest, EveryLayerHasTheModulesOfItsWeights) {
  ModuleFixture fixture("qwen2");
  const BlockOptions options = {
      .config = fixture.config, .ropes = fixture.ropes(), .selection = {}, .labels = nullptr};
  const auto blocks = BuildBlocks(fixture.spec, options, fixture.loader, *fixture.backend);
  ASSERT_TRUE(blocks.ok()) << blocks.status();
  ASSERT_EQ(blocks->size(), 2);
  const Matrix64 x = RandomMatrix(8, 32, 1);
  for (int layer = 0; layer < 2; ++layer) {
    const Matrix64 attended =
        fixture.reference.AfterAttention(x, layer, [](size_t, size_t) { return true; });
    ExpectNear(fixture.Run((*blocks)[static_cast<size_t>(layer)], x, 0),
               fixture.reference.AfterFeedForward(attended, layer), kFp16);
  }
}

}  // namespace
}  // namespace winnow
