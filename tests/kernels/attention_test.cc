// Attention of the CPU's backend against direct float64 computations.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <numeric>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/cpu_backend.h"
#include "tests/kernels/reference.h"

namespace winnow::test {
namespace {

// A pool with several sequences of random contexts whose blocks are scattered, and the keys and
// values that were written, in fp32 as fp16 rounds them.
class AttentionTest : public testing::Test {
 protected:
  struct Sequence {
    int context;  // after this step
    int rows;     // computed in this step: the last ones
  };

  // Runs RopeAndStoreKv (frequency 0: no rotation) over every position, then Attention over the
  // last `rows` of each sequence in one batch; compares with a float64 reference. Returns the
  // outputs.
  std::vector<float> Run(const std::vector<Sequence>& sequences, int heads, int kv_heads,
                         int head_dim, int block_tokens, uint32_t seed,
                         const LayerAttention& layer = {}) {
    const auto backend = CreateCpuBackend({.threads = 2});
    int max_blocks = 0;
    int blocks = 1;
    for (const Sequence& s : sequences) {
      const int needed = (s.context + block_tokens - 1) / block_tokens;
      max_blocks = std::max(max_blocks, needed);
      blocks += needed;
    }
    KvView kv{{blocks, kv_heads, block_tokens, head_dim}};
    auto memory = *backend->Allocate(kv.bytes());
    kv.data = memory->data();
    std::memset(kv.data, 0xff, kv.bytes());  // NaNs: what was not written must not be used
    std::vector<int32_t> ids(blocks);
    std::iota(ids.begin(), ids.end(), 0);
    std::mt19937 shuffle(seed + 99);
    std::shuffle(ids.begin(), ids.end(), shuffle);

    const int columns = (heads + 2 * kv_heads) * head_dim;
    std::vector<float> outputs;
    std::vector<std::vector<float>> all_qkv;
    std::vector<int32_t> tables(sequences.size() * max_blocks, -1);
    int next = 0;
    for (size_t s = 0; s < sequences.size(); ++s) {
      // Its own generator: a sequence's numbers do not depend on its neighbours.
      std::mt19937 random(seed + sequences[s].context);
      all_qkv.push_back(RandomFloats(int64_t{sequences[s].context} * columns, random));
      for (int b = 0; b * block_tokens < sequences[s].context; ++b) {
        tables[s * max_blocks + b] = ids[next++];
      }
    }
    const std::vector<float> frequencies(head_dim / 2, 0.0f);
    const Rope rope{RopePairing::kAdjacent, head_dim, frequencies.data()};
    std::vector<int32_t> tokens, positions, query_begin{0};
    std::vector<float> qkv;
    for (size_t s = 0; s < sequences.size(); ++s) {
      const auto [context, rows] = sequences[s];
      // The past, alone.
      const int past = context - rows;
      if (past > 0) {
        std::vector<int32_t> past_tokens(past), past_positions(past), past_begin{0, past};
        std::iota(past_positions.begin(), past_positions.end(), 0);
        std::vector<float> past_qkv(all_qkv[s].begin(), all_qkv[s].begin() + past * columns);
        const StepBatch batch{past_tokens, past_positions,
                              past_begin,  std::span(tables).subspan(s * max_blocks, max_blocks),
                              max_blocks,  {}};
        backend->BeginStep(batch);
        backend->RopeAndStoreKv(batch, View(past_qkv, columns), heads, kv, rope, {});
      }
      for (int i = past; i < context; ++i) {
        tokens.push_back(0);
        positions.push_back(i);
      }
      qkv.insert(qkv.end(), all_qkv[s].begin() + past * columns, all_qkv[s].end());
      query_begin.push_back(static_cast<int32_t>(tokens.size()));
    }
    const StepBatch batch{tokens, positions, query_begin, tables, max_blocks, {}};
    backend->BeginStep(batch);
    backend->RopeAndStoreKv(batch, View(qkv, columns), heads, kv, rope, {});
    outputs.resize(tokens.size() * heads * head_dim);
    ForgetUnseen(layer, sequences, tables, max_blocks, kv);
    backend->Attention(batch, View(qkv, columns), heads, kv, layer,
                       View(outputs, heads * head_dim));

    for (size_t s = 0; s < sequences.size(); ++s) {
      for (int row = query_begin[s]; row < query_begin[s + 1]; ++row) {
        for (int h = 0; h < heads; ++h) {
          Check(all_qkv[s], columns, positions[row], heads, kv_heads, head_dim, h, layer,
                &outputs[(int64_t{row} * heads + h) * head_dim]);
        }
      }
    }
    return outputs;
  }

  // Fills the blocks that no row of the step sees with NaN: they are not to be read.
  static void ForgetUnseen(const LayerAttention& layer, const std::vector<Sequence>& sequences,
                           const std::vector<int32_t>& tables, int max_blocks, const KvView& kv) {
    for (size_t s = 0; s < sequences.size(); ++s) {
      const int first_context = sequences[s].context - sequences[s].rows + 1;
      const int unseen = first_context - SeenTokens(layer, first_context);
      for (int b = 0; (b + 1) * kv.block_tokens <= unseen; ++b) {
        std::memset(kv.block(tables[s * max_blocks + b]), 0xff, kv.block_bytes());
      }
    }
  }

  static void Check(const std::vector<float>& qkv, int columns, int position, int heads,
                    int kv_heads, int head_dim, int h, const LayerAttention& layer,
                    const float* got) {
    const int g = h * kv_heads / heads;
    const auto half = [](float value) { return double{HalfToFloat(FloatToHalf(value))}; };
    std::vector<double> weights(position + 1);
    double sum = 0;
    const double scale = layer.scale != 0 ? layer.scale : 1 / std::sqrt(head_dim);
    const int window = layer.sliding_window;
    const int first = window > 0 ? std::max(position + 1 - window, 0) : 0;
    for (int j = first; j <= position; ++j) {
      double dot = 0;
      for (int c = 0; c < head_dim; ++c) {
        dot += double{qkv[int64_t{position} * columns + h * head_dim + c]} *
               half(qkv[int64_t{j} * columns + (heads + g) * head_dim + c]);
      }
      double score = scale * dot;
      if (layer.soft_cap > 0) score = layer.soft_cap * std::tanh(score / layer.soft_cap);
      weights[j] = std::exp(score);
      sum += weights[j];
    }
    for (int c = 0; c < head_dim; ++c) {
      double want = 0;
      for (int j = first; j <= position; ++j) {
        want += weights[j] / sum *
                half(qkv[int64_t{j} * columns + (heads + kv_heads + g) * head_dim + c]);
      }
      ASSERT_NEAR(got[c], want, 2e-5) << "position " << position << " head " << h << " dim " << c;
    }
  }
};

TEST_F(AttentionTest, EqualsTheDoublePrecisionSoftmaxOverScatteredBlocks) {
  Run({{1, 1}, {33, 1}, {256, 1}, {257, 1}, {700, 1}}, 9, 3, 64, 32, 1);
  Run({{40, 40}, {300, 20}, {517, 33}, {90, 1}}, 6, 2, 32, 16, 2);
  Run({{70, 5}, {600, 1}}, 4, 4, 128, 32, 3);
  Run({{70, 70}}, 8, 1, 48, 64, 4);
  Run({{29, 29}, {513, 2}}, 2, 1, 80, 32, 5);
}

TEST_F(AttentionTest, ARowIsTheSameDecodedAloneOrPrefilledInAnyChunking) {
  constexpr int kContext = 600;
  const auto prefilled = Run({{kContext, 300}, {50, 7}}, 9, 3, 64, 32, 6);
  const auto decoded = Run({{kContext, 1}}, 9, 3, 64, 32, 6);
  const auto chunk = Run({{80, 80}, {kContext, 17}}, 9, 3, 64, 32, 6);
  constexpr int kRow = 9 * 64;
  EXPECT_EQ(std::memcmp(&prefilled[299 * kRow], decoded.data(), kRow * sizeof(float)), 0);
  EXPECT_EQ(
      std::memcmp(&prefilled[(300 - 17) * kRow], &chunk[80 * kRow], 17 * kRow * sizeof(float)), 0);
}

TEST_F(AttentionTest, HeadsOfEverySizeThatModelsHave) {
  for (const int head_dim : {64, 80, 96, 128, 256}) {
    SCOPED_TRACE(head_dim);
    Run({{300, 1}, {70, 33}}, 4, 2, head_dim, 32, 7);
  }
}

TEST_F(AttentionTest, LayersMayScaleAndCapTheirScores) {
  Run({{300, 1}, {70, 33}}, 4, 2, 64, 32, 8, {.scale = 0.3f});
  Run({{300, 1}, {70, 33}}, 4, 2, 64, 32, 9, {.soft_cap = 1.5f});
  Run({{517, 33}, {90, 1}}, 6, 1, 256, 16, 10, {.scale = 0.05f, .soft_cap = 0.7f});
}

// Windows that end within a chunk, at its begin, and that hold several; blocks of fewer tokens than
// a vector has lanes.
TEST_F(AttentionTest, RowsOfAWindowSeeTheMostRecentPositionsAndReadNoOthers) {
  for (const int window : {1, 5, 33, 256, 300, 700}) {
    SCOPED_TRACE(window);
    const LayerAttention layer = {.sliding_window = window};
    Run({{1, 1}, {33, 1}, {256, 1}, {257, 1}, {900, 1}}, 9, 3, 64, 32, 11, layer);
    Run({{40, 40}, {300, 20}, {517, 33}, {90, 1}}, 6, 2, 32, 8, 12, layer);
    Run({{700, 60}, {600, 1}}, 2, 2, 128, 64, 13, layer);
  }
  Run({{700, 60}, {600, 1}}, 4, 2, 80, 16, 14, {.soft_cap = 2, .sliding_window = 100});
}

TEST_F(AttentionTest, ARowOfAWindowIsTheSameDecodedAloneOrPrefilledInAnyChunking) {
  constexpr int kContext = 600;
  constexpr int kRow = 9 * 64;
  for (const int window : {7, 120, 333}) {
    const LayerAttention layer = {.soft_cap = 3, .sliding_window = window};
    const auto prefilled = Run({{kContext, 300}, {50, 7}}, 9, 3, 64, 32, 6, layer);
    const auto decoded = Run({{kContext, 1}}, 9, 3, 64, 32, 6, layer);
    const auto chunk = Run({{80, 80}, {kContext, 17}}, 9, 3, 64, 32, 6, layer);
    EXPECT_EQ(std::memcmp(&prefilled[299 * kRow], decoded.data(), kRow * sizeof(float)), 0);
    EXPECT_EQ(
        std::memcmp(&prefilled[(300 - 17) * kRow], &chunk[80 * kRow], 17 * kRow * sizeof(float)),
        0);
  }
}

TEST_F(AttentionTest, AWindowOverTheWholeContextIsNone) {
  const auto windowed = Run({{300, 20}, {90, 1}}, 6, 2, 64, 32, 15, {.sliding_window = 300});
  EXPECT_EQ(windowed, Run({{300, 20}, {90, 1}}, 6, 2, 64, 32, 15));
}

}  // namespace
}  // namespace winnow::test
