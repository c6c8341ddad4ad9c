// Attention of the CUDA backend, and what it leaves in the caches, against direct float64
// computations, and against the CPU backend where both select tokens.

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <random>
#include <span>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/float16.h"
#include "tests/kernels/cuda/cuda_backend_fixture.h"
#include "tests/kernels/reference.h"

namespace winnow::test {
namespace {

struct Sequence {
  int context;  // after the step
  int rows;     // computed in the step: the last ones
};

// The same tokens in the pools of both backends: keys, values and labels of all positions, in
// scattered blocks; what was not written is NaN.
class CudaAttentionTest : public CudaBackendTest {
 protected:
  static constexpr int kBlockTokens = 32;

  struct Pool {
    KvView kv;
    LayerAttention attention;
  };

  // Fills both pools; kept are the step's rows, whose RoPE (frequency 0.02 for all pairs) and store
  // run as the step does.
  void Fill(const std::vector<Sequence>& sequences, int heads, int kv_heads, int head_dim,
            int label_width, uint32_t seed) {
    heads_ = heads;
    columns_ = (heads + 2 * kv_heads) * head_dim;
    max_blocks_ = 0;
    int blocks = 3;
    for (const Sequence& s : sequences) {
      const int needed = (s.context + kBlockTokens - 1) / kBlockTokens;
      max_blocks_ = std::max(max_blocks_, needed);
      blocks += needed;
    }
    std::mt19937 random(seed);
    std::vector<int32_t> ids(blocks);
    std::iota(ids.begin(), ids.end(), 0);
    std::shuffle(ids.begin(), ids.end(), random);
    tables_.assign(sequences.size() * max_blocks_, -1);
    int next = 0;
    for (size_t s = 0; s < sequences.size(); ++s) {
      for (int b = 0; b * kBlockTokens < sequences[s].context; ++b) {
        tables_[s * max_blocks_ + b] = ids[next++];
      }
    }
    spare_block_ = ids[next];
    const int64_t matrix = int64_t{kv_heads} * head_dim * label_width;
    key_basis_ = RandomFloats(matrix, random, 2.5f / std::sqrt(static_cast<float>(head_dim)));
    query_basis_ = RandomFloats(matrix, random, 0.15f);
    offset_ = RandomFloats(int64_t{kv_heads} * label_width, random);
    for (float& o : offset_) o += 7.5f;
    frequencies_.assign(head_dim / 2, 0.02f);

    cpu_ = CreateCpuBackend({.threads = 2});
    for (const bool device : {false, true}) {
      Backend& backend = device ? *backend_ : *cpu_;
      Pool& pool = device ? device_pool_ : cpu_pool_;
      pool.kv = {{blocks, kv_heads, kBlockTokens, head_dim, label_width}};
      const std::vector<std::byte> poison(pool.kv.bytes(), std::byte{0xff});
      pool.attention.sinks = 4;
      pool.attention.window = 16;
      for (auto [data, bytes] : {std::pair{&pool.kv.data, pool.kv.bytes()},
                                 std::pair{&pool.kv.labels, pool.kv.label_bytes()}}) {
        auto memory = backend.Allocate(bytes);
        ASSERT_TRUE(memory.ok());
        *data = (*memory)->data();
        backend.Copy(*data, poison.data(), bytes);
        buffers_.push_back(*std::move(memory));
      }
      pool.attention.basis = {key_basis_.data(), query_basis_.data(), offset_.data()};
      if (device) {
        pool.attention.basis = {Floats(key_basis_), Floats(query_basis_), Floats(offset_)};
      }
    }
    tokens_.clear();
    positions_.clear();
    query_begin_ = {0};
    qkv_.clear();
    for (size_t s = 0; s < sequences.size(); ++s) {
      const auto [context, rows] = sequences[s];
      const int past = context - rows;
      auto qkv = RandomFloats(int64_t{context} * columns_, random);
      if (past > 0) {
        const std::vector<int32_t> tokens(past, 0), begin{0, past};
        std::vector<int32_t> positions(past);
        std::iota(positions.begin(), positions.end(), 0);
        const StepBatch batch{tokens,      positions,
                              begin,       std::span(tables_).subspan(s * max_blocks_, max_blocks_),
                              max_blocks_, {}};
        Store(batch, {qkv.begin(), qkv.begin() + past * columns_});
      }
      for (int i = past; i < context; ++i) {
        tokens_.push_back(0);
        positions_.push_back(i);
      }
      qkv_.insert(qkv_.end(), qkv.begin() + past * columns_, qkv.end());
      query_begin_.push_back(static_cast<int32_t>(tokens_.size()));
    }
    Store(Batch({}), qkv_);
  }

  StepBatch Batch(const std::vector<Selection>& selections) const {
    return {tokens_, positions_, query_begin_, tables_, max_blocks_, {}, selections};
  }

  // How both pools' layers attend.
  void Attend(float scale, float soft_cap, int sliding_window) {
    for (Pool* pool : {&cpu_pool_, &device_pool_}) {
      pool->attention.scale = scale;
      pool->attention.soft_cap = soft_cap;
      pool->attention.sliding_window = sliding_window;
    }
  }

  // What lies before the windows of the step's rows may be others' by now: here blocks of NaN.
  void HideUnseenBlocks() {
    const int window = device_pool_.attention.sliding_window;
    for (int s = 0; window > 0 && s + 1 < std::ssize(query_begin_); ++s) {
      const int first_seen = std::max(0, positions_[query_begin_[s]] - window + 1);
      std::fill_n(tables_.begin() + s * max_blocks_, first_seen / kBlockTokens, spare_block_);
    }
  }

  // What Attention should make of the step's rows, all of which are dense.
  std::vector<float> DenseReference() const;

  // Both backends' RopeAndStoreKv. Leaves the rotated rows.
  void Store(const StepBatch& batch, const std::vector<float>& qkv) {
    const int head_dim = cpu_pool_.kv.head_dim;
    rotated_ = qkv;
    cpu_->BeginStep(batch);
    cpu_->RopeAndStoreKv(batch, View(rotated_, columns_), heads_, cpu_pool_.kv,
                         {RopePairing::kHalves, head_dim, frequencies_.data()},
                         cpu_pool_.attention.basis);
    device_rotated_ = Put(qkv, columns_);
    backend_->BeginStep(batch);
    backend_->RopeAndStoreKv(batch, device_rotated_, heads_, device_pool_.kv,
                             {RopePairing::kHalves, head_dim, Floats(frequencies_)},
                             device_pool_.attention.basis);
    Sync();
  }

  // Attention of the step's rows; what probes of every row and KV head find, if wanted.
  std::vector<float> OnDevice(const std::vector<Selection>& selections,
                              std::vector<ProbedMass>* probed = nullptr) {
    const StepBatch batch = Batch(selections);
    const Tensor out = Poisoned(batch.rows(), heads_ * device_pool_.kv.head_dim, DataType::kBF16);
    backend_->BeginStep(batch);
    backend_->Attention(batch, device_rotated_, heads_, device_pool_.kv, device_pool_.attention,
                        out);
    if (probed != nullptr) {
      const auto probes = Probes();
      probed->assign(probes.size(), {NAN, NAN});
      backend_->MeasureRecall(batch, device_rotated_, heads_, device_pool_.kv,
                              device_pool_.attention, probes, probed->data());
      Sync();
    }
    return Get(out);
  }

  std::vector<float> OnCpu(const std::vector<Selection>& selections,
                           std::vector<ProbedMass>* probed = nullptr) {
    const StepBatch batch = Batch(selections);
    const int columns = heads_ * cpu_pool_.kv.head_dim;
    std::vector<float> out(int64_t{batch.rows()} * columns, NAN);
    cpu_->BeginStep(batch);
    cpu_->Attention(batch, View(rotated_, columns_), heads_, cpu_pool_.kv, cpu_pool_.attention,
                    View(out, columns));
    if (probed != nullptr) {
      const auto probes = Probes();
      probed->assign(probes.size(), {NAN, NAN});
      cpu_->MeasureRecall(batch, View(rotated_, columns_), heads_, cpu_pool_.kv,
                          cpu_pool_.attention, probes, probed->data());
    }
    return out;
  }

  std::vector<RecallProbe> Probes() const {
    std::vector<RecallProbe> probes;
    for (int row = 0; row < std::ssize(tokens_); ++row) {
      for (int g = 0; g < cpu_pool_.kv.kv_heads; ++g) probes.push_back({row, 0, g});
    }
    return probes;
  }

  static double RelativeError(const std::vector<float>& got, const std::vector<float>& want) {
    double error = 0;
    double scale = 0;
    for (size_t i = 0; i < got.size(); ++i) {
      error += std::pow(double{got[i]} - want[i], 2);  // NaN stays NaN
      scale += std::pow(double{want[i]}, 2);
    }
    return std::sqrt(error / scale);
  }

  int heads_ = 0;
  int columns_ = 0;
  int max_blocks_ = 0;
  int32_t spare_block_ = 0;  // of no sequence
  std::unique_ptr<Backend> cpu_;
  Pool cpu_pool_, device_pool_;
  std::vector<float> key_basis_, query_basis_, offset_, frequencies_;
  std::vector<int32_t> tokens_, positions_, query_begin_, tables_;
  std::vector<float> qkv_, rotated_;
  Tensor device_rotated_;
};

TEST_F(CudaAttentionTest, RopeStoresWhatTheCpuStores) {
  for (const int head_dim : {64, 80, 96, 128, 256}) {
    Fill({{70, 70}, {33, 1}}, 6, 2, head_dim, 16, 1);
    const auto rotated = Get(device_rotated_);
    for (size_t i = 0; i < rotated.size(); ++i) ASSERT_NEAR(rotated[i], rotated_[i], 2e-5) << i;
    // Keys and values of the sequences' tokens: fp16 of numbers that may differ in the last place.
    const KvView& kv = cpu_pool_.kv;
    std::vector<uint16_t> stored(kv.bytes() / 2);
    backend_->Copy(reinterpret_cast<std::byte*>(stored.data()), device_pool_.kv.data, kv.bytes());
    Sync();
    const std::vector<int> contexts = {70, 33};
    for (size_t s = 0; s < contexts.size(); ++s) {
      for (int j = 0; j < contexts[s]; ++j) {
        const int block = tables_[s * max_blocks_ + j / kBlockTokens];
        for (int g = 0; g < kv.kv_heads; ++g) {
          const uint16_t* want = kv.key(block, g, j % kBlockTokens);
          const uint16_t* got = stored.data() + (want - reinterpret_cast<uint16_t*>(kv.data));
          for (int c = 0; c < 2 * kv.head_dim; ++c) {
            const float value = HalfToFloat(want[c]);
            ASSERT_NEAR(HalfToFloat(got[c]), value, 1e-3 * std::abs(value) + 2e-5);
          }
        }
      }
    }
  }
}

TEST_F(CudaAttentionTest, WhatOnePassRotatesAndStoresIsWhatTwoDo) {
  for (const int head_dim : {64, 80, 96, 128, 256}) {
    for (const int width : {8, 16, 32}) {
      Fill({{70, 70}, {33, 1}, {90, 1}}, 6, 2, head_dim, width, 5);
      for (const RopePairing pairing : {RopePairing::kAdjacent, RopePairing::kHalves}) {
        for (const bool labels : {false, true}) {
          const StepBatch batch = Batch({});
          const Rope rope{pairing, head_dim, Floats(frequencies_)};
          const LabelCodec& basis = device_pool_.attention.basis;
          std::vector<float> qkv[2];
          std::vector<std::byte> stored[2];
          for (const bool fused : {false, true}) {
            KvView kv = device_pool_.kv;
            const int64_t bytes = kv.bytes() + kv.label_bytes();
            kv.data = Bytes(std::vector<std::byte>(bytes, std::byte{0x5a}).data(), bytes);
            kv.labels = labels ? kv.data + kv.bytes() : nullptr;
            const Tensor rows = Put(qkv_, columns_);
            backend_->BeginStep(batch);
            if (fused) {
              backend_->RopeAndStoreKv(batch, rows, heads_, kv, rope, basis);
            } else {
              backend_->ApplyRope(batch, rows, heads_, kv, rope);
              backend_->StoreKv(batch, rows, heads_, kv, basis);
            }
            qkv[fused] = Get(rows);
            stored[fused].resize(bytes);
            backend_->Copy(stored[fused].data(), kv.data, bytes);
            Sync();
          }
          EXPECT_EQ(qkv[0], qkv[1]);
          EXPECT_EQ(stored[0], stored[1]);
          EXPECT_NE(qkv[0], qkv_);
          EXPECT_NE(std::ranges::count(stored[0], std::byte{0x5a}), std::ssize(stored[0]));
        }
      }
    }
  }
}

TEST_F(CudaAttentionTest, RopeRotatesByAnglesThatFp32WouldLoseAndMultipliesByItsMagnitude) {
  constexpr int kDim = 64;
  KvView kv{{1, 1, 32, kDim}};
  auto memory = *backend_->Allocate(kv.bytes());
  kv.data = memory->data();
  std::mt19937 random(3);
  for (const RopePairing pairing : {RopePairing::kAdjacent, RopePairing::kHalves}) {
    const auto before = RandomFloats(3 * kDim, random);
    const std::vector<float> frequencies(kDim / 4, 0.987654f);  // half of the dimensions
    const std::vector<int32_t> tokens{0}, positions{131071}, begin{0, 1};
    const std::vector<int32_t> table(4096, 0);
    const StepBatch batch{tokens, positions, begin, table, 4096, {}};
    const Tensor qkv = Put(before, 3 * kDim);
    backend_->BeginStep(batch);
    constexpr float kMagnitude = 1.25f;
    backend_->RopeAndStoreKv(batch, qkv, 1, kv,
                             {pairing, kDim / 2, Floats(frequencies), kMagnitude}, {});
    const auto got = Get(qkv);
    const double angle = double{0.987654f} * 131071;
    for (int h = 0; h < 2; ++h) {
      for (int i = 0; i < kDim / 4; ++i) {
        const int a = h * kDim + (pairing == RopePairing::kAdjacent ? 2 * i : i);
        const int b = h * kDim + (pairing == RopePairing::kAdjacent ? 2 * i + 1 : i + kDim / 4);
        const double cosine = kMagnitude * std::cos(angle);
        const double sine = kMagnitude * std::sin(angle);
        ASSERT_NEAR(got[a], before[a] * cosine - before[b] * sine, 1e-5);
        ASSERT_NEAR(got[b], before[a] * sine + before[b] * cosine, 1e-5);
      }
      for (int c = kDim / 2; c < kDim; ++c) ASSERT_EQ(got[h * kDim + c], before[h * kDim + c]);
    }
    for (int c = 2 * kDim; c < 3 * kDim; ++c) ASSERT_EQ(got[c], before[c]);
  }
}

std::vector<float> CudaAttentionTest::DenseReference() const {
  const KvView& kv = cpu_pool_.kv;
  const LayerAttention& attention = cpu_pool_.attention;
  const int group = heads_ / kv.kv_heads;
  const double scale = ScoreScale(attention, kv.head_dim);
  const double cap = attention.soft_cap;
  std::vector<float> wanted(tokens_.size() * heads_ * kv.head_dim);
  for (int s = 0; s + 1 < std::ssize(query_begin_); ++s) {
    for (int row = query_begin_[s]; row < query_begin_[s + 1]; ++row) {
      for (int h = 0; h < heads_; ++h) {
        const int context = positions_[row] + 1;
        const int first = context - SeenTokens(attention, context);
        const auto key = [&](int j) {
          return kv.key(tables_[s * max_blocks_ + j / kBlockTokens], h / group, j % kBlockTokens);
        };
        std::vector<double> weights(context);
        double sum = 0;
        for (int j = first; j < context; ++j) {
          double dot = 0;
          for (int i = 0; i < kv.head_dim; ++i) {
            dot += double{rotated_[int64_t{row} * columns_ + h * kv.head_dim + i]} *
                   HalfToFloat(key(j)[i]);
          }
          const double score = scale * dot;
          weights[j] = std::exp(cap > 0 ? cap * std::tanh(score / cap) : score);
          sum += weights[j];
        }
        for (int i = 0; i < kv.head_dim; ++i) {
          double want = 0;
          for (int j = first; j < context; ++j) {
            want += weights[j] / sum * HalfToFloat(key(j)[kv.head_dim + i]);
          }
          wanted[(int64_t{row} * heads_ + h) * kv.head_dim + i] = static_cast<float>(want);
        }
      }
    }
  }
  return wanted;
}

TEST_F(CudaAttentionTest, DenseRowsEqualTheDoublePrecisionSoftmaxOverScatteredBlocks) {
  struct Case {
    std::vector<Sequence> sequences;
    int heads, kv_heads, head_dim;
    float scale = 0, soft_cap = 0;
    int sliding_window = 0;
  };
  const Case cases[] = {
      {{{1, 1}, {33, 1}, {256, 1}, {257, 1}, {700, 1}}, 9, 3, 64},
      {{{40, 40}, {300, 20}, {517, 133}, {90, 1}}, 6, 2, 128},
      {{{129, 129}, {600, 1}}, 4, 4, 128},
      {{{1000, 1000}}, 8, 1, 64},
      {{{127, 2}, {64, 64}, {65, 65}, {128, 128}}, 2, 1, 128},
      {{{40, 40}, {517, 133}, {300, 1}}, 6, 6, 80},
      {{{40, 40}, {517, 133}, {300, 1}}, 5, 1, 96},
      {{{40, 40}, {517, 133}, {300, 1}}, 4, 2, 256},
      {{{300, 300}, {300, 1}}, 4, 1, 64, 0.1f, 3},
      {{{300, 300}, {300, 1}}, 4, 1, 128, 0.1f, 30},
      {{{300, 300}, {300, 1}}, 4, 1, 256, 1 / 16.0f, 50},
      {{{40, 40}, {517, 200}, {900, 900}, {300, 1}}, 4, 1, 64, 0, 0, 1},
      {{{40, 40}, {517, 200}, {900, 900}, {300, 1}}, 4, 2, 80, 0, 0, 17},
      {{{40, 40}, {517, 200}, {900, 900}, {300, 1}}, 4, 2, 96, 0, 0, 64},
      {{{40, 40}, {517, 200}, {900, 900}, {300, 1}}, 4, 2, 128, 0, 0, 200},
      {{{40, 40}, {517, 200}, {900, 900}, {300, 1}}, 4, 2, 256, 0, 20, 333},
      {{{40, 40}, {517, 200}}, 4, 2, 64, 0, 0, 5000},
  };
  uint32_t seed = 20;
  for (const Case& c : cases) {
    Fill(c.sequences, c.heads, c.kv_heads, c.head_dim, 16, seed++);
    Attend(c.scale, c.soft_cap, c.sliding_window);
    HideUnseenBlocks();
    // bf16 results; fp16 queries and softmax weights in tiles.
    EXPECT_LT(RelativeError(OnDevice({}), DenseReference()), 5e-3) << "case " << seed - 21;
  }
}

TEST_F(CudaAttentionTest, SelectingRowsEqualTheCpus) {
  struct Case {
    int head_dim;
    float scale = 0, soft_cap = 0;
  };
  for (const Case& c : {Case{64}, Case{80}, Case{96}, Case{128, 0.1f}, Case{256, 1 / 16.0f, 20}}) {
    SCOPED_TRACE(testing::Message() << "heads of " << c.head_dim);
    // Rows of one sequence that select, beside decoding ones and a prompt.
    Fill({{700, 1}, {300, 3}, {90, 40}, {1500, 1}}, 6, 2, c.head_dim, 16, 30);
    Attend(c.scale, c.soft_cap, 0);
    for (const SelectionKind kind :
         {SelectionKind::kLabels, SelectionKind::kScores, SelectionKind::kWindow}) {
      std::vector<Selection> selections(tokens_.size(), Selection{kind, 0.125f, 0});
      for (int row = 4; row < 44; ++row) selections[row] = {};
      selections.back() = {kind, 1, 77};
      std::vector<ProbedMass> probed;
      std::vector<ProbedMass> cpu_probed;
      const auto got = OnDevice(selections, &probed);
      const auto want = OnCpu(selections, &cpu_probed);
      // Both keep the best tokens; near the budget's end they may differ in single ones, whose
      // approximate scores differ in their last place.
      EXPECT_LT(RelativeError(got, want), 2e-2) << static_cast<int>(kind);
      ASSERT_EQ(probed.size(), cpu_probed.size());
      for (size_t i = 0; i < probed.size(); ++i) {
        EXPECT_NEAR(probed[i].recall, cpu_probed[i].recall, 1e-2)
            << static_cast<int>(kind) << ", probe " << i;
      }
    }
  }
}

TEST_F(CudaAttentionTest, LayersWithASlidingWindowAreDenseWithinItWhateverRowsSelect) {
  Fill({{700, 1}, {300, 3}, {1500, 1}}, 6, 2, 64, 16, 32);
  Attend(0, 0, 100);
  HideUnseenBlocks();
  std::vector<ProbedMass> probed;
  const auto got =
      OnDevice(std::vector<Selection>(5, {SelectionKind::kLabels, 0.125f, 0}), &probed);
  EXPECT_LT(RelativeError(got, DenseReference()), 5e-3);
  EXPECT_EQ(probed, std::vector<ProbedMass>(probed.size()));
}

TEST_F(CudaAttentionTest, RowsOfMoreMemoryThanACallTakesEqualTheCpus) {
  // Lists of some 5,000 entries for 6 heads of each row come to more than 64 MiB.
  Fill({{5000, 700}}, 6, 6, 64, 16, 31);
  const std::vector<Selection> selections(700, {SelectionKind::kLabels, 0.9f, 0});
  std::vector<ProbedMass> probed;
  std::vector<ProbedMass> cpu_probed;
  const auto got = OnDevice(selections, &probed);
  const auto want = OnCpu(selections, &cpu_probed);
  EXPECT_LT(RelativeError(got, want), 2e-2);
  ASSERT_EQ(probed.size(), cpu_probed.size());
  for (size_t i = 0; i < probed.size(); ++i)
    EXPECT_NEAR(probed[i].recall, cpu_probed[i].recall, 1e-2) << i;
}

TEST_F(CudaAttentionTest, ReplaysOfARecordingComputeTheirOwnBatch) {
  Fill({{700, 1}, {650, 1}}, 4, 2, 128, 16, 40);
  std::unique_ptr<Recordings> recordings;
  const int columns = heads_ * 128;
  // A recording writes where it was recorded to.
  const Tensor replayed = Poisoned(2, columns, DataType::kBF16);
  const std::vector<Selection> selections(2, {SelectionKind::kLabels, 0.25f, 0});
  for (int round = 0; round < 5; ++round) {
    // Each step looks back from an earlier position than the last one: same shape, other numbers.
    std::vector<int32_t> positions = {699 - 3 * round, 649 - 5 * round};
    StepBatch batch = Batch(selections);
    batch.positions = positions;
    const Tensor queued = Poisoned(2, columns, DataType::kBF16);
    backend_->BeginStep(batch);
    backend_->Replay(batch, &recordings, [&] {
      backend_->Attention(batch, device_rotated_, heads_, device_pool_.kv, device_pool_.attention,
                          replayed);
    });
    const auto got = Get(replayed);
    backend_->BeginStep(batch);
    backend_->Attention(batch, device_rotated_, heads_, device_pool_.kv, device_pool_.attention,
                        queued);
    EXPECT_EQ(got, Get(queued)) << "round " << round;
  }
}

}  // namespace
}  // namespace winnow::test
