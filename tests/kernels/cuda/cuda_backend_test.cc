// The operators of the CUDA backend against direct float64 computations, and against the CPU
// backend where both select tokens. Skipped where there is no device.

#include "kernels/cuda/cuda_backend.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <memory>
#include <numeric>
#include <random>
#include <span>
#include <tuple>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/token_chooser.h"
#include "tests/kernels/reference.h"

namespace winnow::test {
namespace {

// To nearest, as the device rounds.
float AsBf16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  return std::bit_cast<float>((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000);
}

// A test of the device's operators: numbers go there and come back as fp32.
class CudaBackendTest : public testing::Test {
 protected:
  void SetUp() override {
    absl::StatusOr<std::unique_ptr<Backend>> created = CreateCudaBackend();
    if (created.status().code() == absl::StatusCode::kFailedPrecondition) {
      GTEST_SKIP() << created.status().message();
    }
    ASSERT_TRUE(created.ok()) << created.status();
    backend_ = *std::move(created);
  }

  std::byte* Bytes(const void* data, int64_t bytes) {
    absl::StatusOr<std::unique_ptr<Buffer>> buffer = backend_->Allocate(bytes);
    EXPECT_TRUE(buffer.ok()) << buffer.status();
    backend_->Copy((*buffer)->data(), static_cast<const std::byte*>(data), bytes);
    buffers_.push_back(*std::move(buffer));
    return buffers_.back()->data();
  }

  const float* Floats(std::span<const float> values) {
    return reinterpret_cast<const float*>(
        Bytes(values.data(), static_cast<int64_t>(values.size_bytes())));
  }

  // A tensor of `type`; bf16 takes the values rounded.
  Tensor Put(const std::vector<float>& values, int64_t columns, DataType type = DataType::kF32) {
    const int64_t rows = std::ssize(values) / columns;
    if (type == DataType::kF32) {
      return {Bytes(values.data(), std::ssize(values) * 4), rows, columns, columns, type};
    }
    std::vector<uint16_t> rounded;
    for (const float value : values) {
      rounded.push_back(static_cast<uint16_t>(std::bit_cast<uint32_t>(AsBf16(value)) >> 16));
    }
    return {Bytes(rounded.data(), std::ssize(rounded) * 2), rows, columns, columns, type};
  }

  // A tensor that holds NaNs: what an operator leaves out shows.
  Tensor Poisoned(int64_t rows, int64_t columns, DataType type) {
    return Put(std::vector<float>(rows * columns, NAN), columns, type);
  }

  std::vector<float> Get(const Tensor& tensor) {
    const int64_t count = tensor.rows * tensor.columns;
    std::vector<float> values(count);
    if (tensor.type == DataType::kF32) {
      backend_->CopyToHost(tensor, values.data());
    } else {
      std::vector<uint16_t> stored(count);
      backend_->Copy(reinterpret_cast<std::byte*>(stored.data()),
                     static_cast<const std::byte*>(tensor.data), count * 2);
      Sync();
      for (int64_t i = 0; i < count; ++i) {
        values[i] = std::bit_cast<float>(static_cast<uint32_t>(stored[i]) << 16);
      }
    }
    Sync();
    return values;
  }

  void Sync() {
    const absl::Status status = backend_->Synchronize();
    EXPECT_TRUE(status.ok()) << status;
  }

  std::unique_ptr<Backend> backend_;
  std::vector<std::unique_ptr<Buffer>> buffers_;
};

// bf16 keeps 8 bits.
constexpr double kBf16Error = 0x1p-8;

TEST_F(CudaBackendTest, MatMulEqualsTheDoublePrecisionProductOfRoundedFactors) {
  std::mt19937 random(7);
  constexpr DataType kTypes[] = {DataType::kF32,  DataType::kF16,  DataType::kBF16, DataType::kQ4_0,
                                 DataType::kQ4_1, DataType::kQ5_0, DataType::kQ5_1, DataType::kQ8_0,
                                 DataType::kQ4_K, DataType::kQ5_K, DataType::kQ6_K};
  for (const DataType type : kTypes) {
    // Few rows and many take different ways.
    for (const int64_t rows : {1, 2, 8, 13, 32, 33, 200}) {
      const int64_t columns = BlockElements(type) == 1 ? 576 : 512;
      constexpr int64_t kOutputs = 184;
      const auto data = RandomWeights(type, kOutputs, columns, random);
      const HostMatrix part{type, kOutputs, columns, data};
      const auto matrix = backend_->LoadMatrix({&part, 1});
      ASSERT_TRUE(matrix.ok()) << matrix.status();
      EXPECT_EQ((*matrix)->bytes(), kOutputs * columns * 2);
      const auto x = RandomFloats(rows * columns, random);
      const auto bias = RandomFloats(kOutputs, random);
      const auto before = RandomFloats(rows * kOutputs, random);
      const Tensor input = Put(x, columns, DataType::kBF16);
      const Tensor added = Put(before, kOutputs);
      const Tensor rounded = Poisoned(rows, kOutputs, DataType::kBF16);
      backend_->MatMul(input, **matrix, Floats(bias), /*accumulate=*/true, added);
      backend_->MatMul(input, **matrix, nullptr, /*accumulate=*/false, rounded);
      const auto got = Get(added);
      const auto got_rounded = Get(rounded);
      double error = 0;
      double rounded_error = 0;
      double scale = 0;
      std::vector<float> weights(columns);
      for (int64_t n = 0; n < kOutputs; ++n) {
        Dequantize(type, data.data() + n * RowBytes(type, columns), columns, weights.data());
        for (int64_t t = 0; t < rows; ++t) {
          double product = 0;
          for (int64_t k = 0; k < columns; ++k) {
            product += double{AsBf16(x[t * columns + k])} * AsBf16(weights[k]);
          }
          const int64_t at = t * kOutputs + n;
          error += std::pow(got[at] - (product + bias[n] + before[at]), 2);
          rounded_error += std::pow(got_rounded[at] - product, 2);
          scale += product * product;
        }
      }
      EXPECT_LT(std::sqrt(error / scale), 1e-5) << DataTypeName(type) << ", " << rows << " rows";
      EXPECT_LT(std::sqrt(rounded_error / scale), kBf16Error) << DataTypeName(type);
    }
  }
}

TEST_F(CudaBackendTest, MatMulStacksParts) {
  std::mt19937 random(9);
  const auto first = RandomWeights(DataType::kQ4_0, 24, 256, random);
  const auto second = RandomWeights(DataType::kQ6_K, 8, 256, random);
  const HostMatrix parts[] = {{DataType::kQ4_0, 24, 256, first}, {DataType::kQ6_K, 8, 256, second}};
  const auto stacked = backend_->LoadMatrix(parts);
  ASSERT_TRUE(stacked.ok());
  const auto x = RandomFloats(256, random);
  const Tensor out = Poisoned(1, 32, DataType::kF32);
  backend_->MatMul(Put(x, 256, DataType::kBF16), **stacked, nullptr, false, out);
  const auto got = Get(out);
  for (int n = 0; n < 32; ++n) {
    const HostMatrix& part = parts[n < 24 ? 0 : 1];
    std::vector<float> row(256);
    const int in_part = n < 24 ? n : n - 24;
    Dequantize(part.type, part.data.data() + in_part * RowBytes(part.type, 256), 256, row.data());
    double want = 0;
    for (int k = 0; k < 256; ++k) want += double{AsBf16(x[k])} * AsBf16(row[k]);
    EXPECT_NEAR(got[n], want, 1e-4 * std::max(1.0, std::abs(want))) << n;
  }
  const HostMatrix widths[] = {{DataType::kF32, 2, 64, std::span(first).first(512)},
                               {DataType::kF32, 2, 32, std::span(first).first(256)}};
  EXPECT_EQ(backend_->LoadMatrix(widths).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(CudaBackendTest, RmsNormEqualsTheDoublePrecisionFormula) {
  std::mt19937 random(10);
  for (const int64_t columns : {16, 576, 1001, 4096, 16384}) {
    const auto x = RandomFloats(3 * columns, random, 5);
    const auto weight = RandomFloats(columns, random);
    const Tensor out = Poisoned(3, columns, DataType::kBF16);
    backend_->RmsNorm(Put(x, columns), Floats(weight), 1e-5f, out);
    const auto got = Get(out);
    for (int64_t t = 0; t < 3; ++t) {
      double squares = 0;
      for (int64_t c = 0; c < columns; ++c) squares += std::pow(double{x[t * columns + c]}, 2);
      const double norm = std::sqrt(squares / static_cast<double>(columns) + 1e-5);
      for (int64_t c = 0; c < columns; ++c) {
        const double want = x[t * columns + c] / norm * weight[c];
        ASSERT_NEAR(got[t * columns + c], want, kBf16Error * std::abs(want) + 1e-7) << columns;
      }
    }
  }
}

TEST_F(CudaBackendTest, SwiGluEqualsTheDoublePrecisionFormula) {
  std::mt19937 random(11);
  for (const int64_t ffn : {99, 1536, 11008}) {
    auto gate_up = RandomFloats(2 * 2 * ffn, random, 4);
    for (float& value : gate_up) value = AsBf16(value);
    const Tensor out = Poisoned(2, ffn, DataType::kBF16);
    backend_->Gate(Activation::kSilu, Put(gate_up, 2 * ffn, DataType::kBF16), out);
    const auto got = Get(out);
    for (int64_t t = 0; t < 2; ++t) {
      for (int64_t c = 0; c < ffn; ++c) {
        const double gate = gate_up[t * 2 * ffn + c];
        const double want = gate / (1 + std::exp(-gate)) * gate_up[t * 2 * ffn + ffn + c];
        ASSERT_NEAR(got[t * ffn + c], want, kBf16Error * std::abs(want) + 1e-6);
      }
    }
  }
}

TEST_F(CudaBackendTest, EmbedAndGatherLogitRowsPickTheRowsOfTheBatch) {
  std::mt19937 random(12);
  constexpr int64_t kColumns = 96;
  const auto table = RandomFloats(50 * kColumns, random);
  const auto embedding =
      backend_->LoadEmbedding({DataType::kF32, 50, kColumns, std::as_bytes(std::span(table))});
  ASSERT_TRUE(embedding.ok());
  const std::vector<int32_t> tokens{49, 0, 7, 7}, positions{0, 1, 2, 3}, begin{0, 4}, blocks{0};
  const std::vector<int32_t> logit_rows{1, 3};
  const StepBatch batch{tokens, positions, begin, blocks, 1, logit_rows};
  backend_->BeginStep(batch);
  const Tensor rows = Poisoned(4, kColumns, DataType::kF32);
  const Tensor last = Poisoned(1, kColumns, DataType::kF32);
  backend_->Embed(batch, **embedding, /*scale=*/1, rows);
  backend_->GatherLogitRows(batch, 1, rows, last);
  const auto got = Get(rows);
  const auto got_last = Get(last);
  for (int t = 0; t < 4; ++t) {
    for (int c = 0; c < kColumns; ++c) {
      ASSERT_EQ(got[t * kColumns + c], AsBf16(table[tokens[t] * kColumns + c]));
    }
  }
  EXPECT_TRUE(std::equal(got_last.begin(), got_last.end(), got.begin() + 3 * kColumns));
}

TEST_F(CudaBackendTest, GreedyChoicesAreTheFirstOfTheLargestFiniteLogits) {
  constexpr int kVocab = 32003;
  std::mt19937 random(13);
  auto logits = RandomFloats(6 * kVocab, random);
  for (const int token : {31999, 700, 30000}) logits[token] = 9;  // a tie
  for (int c = 0; c < kVocab; ++c) logits[kVocab + c] -= 100;     // all negative
  logits[2 * kVocab + 5] = NAN;
  logits[3 * kVocab + kVocab - 1] = INFINITY;
  for (int c = 0; c < kVocab; ++c) logits[4 * kVocab + c] = -INFINITY;
  logits[5 * kVocab + kVocab - 1] = 50;
  std::vector<TokenChoice> choices(6);
  for (int row = 0; row < 6; ++row) choices[row].row = 10 + row;
  std::vector<int32_t> tokens(6, -7);
  backend_->ChooseTokens(Put(logits, kVocab), 10, choices, tokens.data());
  Sync();
  const auto second = logits.begin() + kVocab;
  const auto largest = static_cast<int32_t>(std::max_element(second, second + kVocab) - second);
  EXPECT_EQ(tokens, (std::vector<int32_t>{700, largest, kLogitsNotFinite, kLogitsNotFinite,
                                          kLogitsNotFinite, kVocab - 1}));
}

// What the CPU chooses is tested against double precision (tests/engine/sequence/sampling_test.cc).
TEST_F(CudaBackendTest, ChoosesTheTokensThatTheCpuChooses) {
  for (const int vocab : {5, 700, 32003, 128256}) {
    std::mt19937 random(static_cast<unsigned>(vocab));
    const auto real = [&](float low, float high) {
      return std::uniform_real_distribution<float>(low, high)(random);
    };
    const auto half = [&] { return random() % 2 == 0; };
    constexpr int kRows = 8;
    std::vector<float> logits;
    for (int row = 0; row < kRows; ++row) {
      const float spread = real(0.2f, 6);
      for (const float x : RandomFloats(vocab, random)) logits.push_back(x * spread);
      // Equal logits, which ids tell apart.
      for (int i = 0; i < vocab / 3; ++i) logits[row * vocab + random() % vocab] = spread;
    }
    std::vector<TokenChoice> choices;
    std::vector<std::vector<LogitEdit>> edits;
    for (int i = 0; i < 64; ++i) {
      TokenChoice choice;
      choice.row = i / (64 / kRows);  // several of a row
      choice.temperature = i % 16 == 0 ? 0 : real(0.1f, 2.5f);
      if (half()) choice.top_k = static_cast<int>(1 + random() % (half() ? 40 : vocab));
      if (half()) choice.top_p = real(0.05f, 0.999f);
      if (half()) choice.min_p = real(0, 0.3f);
      // Near the ends, but not where tokens decide that weigh too little for the device.
      choice.uniform = i % 8 == 1 ? 1e-7 : i % 8 == 2 ? 1 - 1e-7 : real(0, 1);
      choice.repetition_penalty = real(0.5f, 2);
      choice.presence_penalty = real(-2, 2);
      choice.frequency_penalty = real(-1, 1);
      std::vector<LogitEdit>& of_choice = edits.emplace_back();
      for (int token = 0; half() && token < vocab; token += 1 + static_cast<int>(random() % 40)) {
        of_choice.push_back(
            {token, half() ? real(-4, 4) : -INFINITY, static_cast<int32_t>(random() % 5) - 1});
      }
      choices.push_back(choice);
    }
    for (size_t i = 0; i < choices.size(); ++i) choices[i].edits = edits[i];
    edits.back().clear();
    for (int token = 0; token < vocab; ++token) edits.back().push_back({token, -INFINITY, -1});
    choices.back().edits = edits.back();  // nothing is left

    const Tensor rows = Put(logits, vocab);
    std::vector<int32_t> tokens(choices.size(), -7);
    backend_->ChooseTokens(rows, 0, choices, tokens.data());
    Sync();
    cpu::TokenChooser chooser;
    for (size_t i = 0; i < choices.size(); ++i) {
      const std::span<const float> row(&logits[choices[i].row * vocab], vocab);
      EXPECT_EQ(tokens[i], chooser.Choose(row, choices[i]))
          << "vocabulary " << vocab << ", choice " << i;
    }
    EXPECT_EQ(tokens.back(), kNoTokenLeft);
    EXPECT_EQ(Get(rows), logits);  // which other choices of the same rows need
  }
}

// What the CPU says is tested against double precision (tests/kernels/backend_test.cc).
TEST_F(CudaBackendTest, DescribesTokensAsTheCpuDoes) {
  const auto cpu = CreateCpuBackend({.threads = 1});
  for (const int vocab : {5, 700, 32003, 128256}) {
    std::mt19937 random(static_cast<unsigned>(vocab));
    constexpr int kRows = 8;
    constexpr int kFirst = 3;
    std::vector<float> logits;
    for (int row = 0; row < kRows; ++row) {
      const float spread = std::array{0.0f, 0.5f, 5.0f, 200.0f}[row % 4];
      for (const float x : RandomFloats(vocab, random)) logits.push_back(x * spread);
      // Equal logits, which ids tell apart, zeros of both signs, and tokens that can't be.
      for (int i = 0; i < vocab / 3; ++i) {
        const float same = std::array{spread, 0.0f, -0.0f, -INFINITY}[random() % 4];
        logits[row * vocab + static_cast<int>(random() % vocab)] = same;
      }
      logits[row * vocab] = spread;
    }
    std::vector<TokenChoice> choices(200);
    std::vector<int32_t> tokens;
    for (size_t i = 0; i < choices.size(); ++i) {
      choices[i].row = kFirst + static_cast<int32_t>(i) / 25;
      choices[i].alternatives = static_cast<int32_t>(random() % 23) - 1;
      tokens.push_back(i % 9 == 0 ? kNoTokenLeft : static_cast<int32_t>(random() % vocab));
    }
    choices[7].alternatives = 5000;  // more results than are brought back together
    const std::vector<TokenDescription> before(choices.size(), {-7, {{1, -8}}});
    auto got = before;
    auto expected = before;
    const Tensor host{logits.data(), kRows, vocab, vocab, DataType::kF32};
    cpu->DescribeTokens(host, kFirst, choices, tokens.data(), expected.data());
    backend_->DescribeTokens(Put(logits, vocab), kFirst, choices, tokens.data(), got.data());
    Sync();
    const auto equal = [](float a, float b) {
      return a == b || std::abs(a - b) <= std::max(1e-5f, 1e-6f * std::abs(b));
    };
    for (size_t i = 0; i < choices.size(); ++i) {
      SCOPED_TRACE(testing::Message() << "vocabulary " << vocab << ", choice " << i);
      EXPECT_TRUE(equal(got[i].logprob, expected[i].logprob));
      ASSERT_EQ(got[i].alternatives.size(), expected[i].alternatives.size());
      for (size_t j = 0; j < got[i].alternatives.size(); ++j) {
        EXPECT_EQ(got[i].alternatives[j].token, expected[i].alternatives[j].token);
        EXPECT_TRUE(equal(got[i].alternatives[j].logprob, expected[i].alternatives[j].logprob));
      }
    }
  }
}

TEST_F(CudaBackendTest, AllocatingMoreThanThereIsSaysWhatIsNeededAndFree) {
  const absl::Status status = backend_->Allocate(int64_t{1} << 50).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(status.message().find("1125899906842624 bytes are needed"), absl::string_view::npos)
      << status;
  Sync();  // the device goes on
}

TEST_F(CudaBackendTest, RefusesAttentionThatItCannotCompute) {
  KvShape kv{.blocks = 1, .kv_heads = 4, .block_tokens = 32, .head_dim = 128};
  EXPECT_TRUE(backend_->CheckAttention(16, kv, {}).ok());
  EXPECT_EQ(backend_->CheckAttention(64, kv, {}).code(), absl::StatusCode::kUnimplemented);
  kv.label_width = 64;
  EXPECT_EQ(backend_->CheckAttention(16, kv, {}).code(), absl::StatusCode::kUnimplemented);
  kv.label_width = 32;
  EXPECT_TRUE(backend_->CheckAttention(16, kv, {}).ok());
  kv.head_dim = 80;
  EXPECT_EQ(backend_->CheckAttention(16, kv, {}).code(), absl::StatusCode::kUnimplemented);
}

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

  // Attention of the step's rows; `recalls` of every row and KV head, if wanted.
  std::vector<float> OnDevice(const std::vector<Selection>& selections,
                              std::vector<float>* recalls = nullptr) {
    const StepBatch batch = Batch(selections);
    const Tensor out = Poisoned(batch.rows(), heads_ * device_pool_.kv.head_dim, DataType::kBF16);
    backend_->BeginStep(batch);
    backend_->Attention(batch, device_rotated_, heads_, device_pool_.kv, device_pool_.attention,
                        out);
    if (recalls != nullptr) {
      const auto probes = Probes();
      recalls->assign(probes.size(), NAN);
      backend_->MeasureRecall(batch, device_rotated_, heads_, device_pool_.kv,
                              device_pool_.attention, probes, recalls->data());
      Sync();
    }
    return Get(out);
  }

  std::vector<float> OnCpu(const std::vector<Selection>& selections,
                           std::vector<float>* recalls = nullptr) {
    const StepBatch batch = Batch(selections);
    const int columns = heads_ * cpu_pool_.kv.head_dim;
    std::vector<float> out(int64_t{batch.rows()} * columns, NAN);
    cpu_->BeginStep(batch);
    cpu_->Attention(batch, View(rotated_, columns_), heads_, cpu_pool_.kv, cpu_pool_.attention,
                    View(out, columns));
    if (recalls != nullptr) {
      const auto probes = Probes();
      recalls->assign(probes.size(), NAN);
      cpu_->MeasureRecall(batch, View(rotated_, columns_), heads_, cpu_pool_.kv,
                          cpu_pool_.attention, probes, recalls->data());
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
  std::unique_ptr<Backend> cpu_;
  Pool cpu_pool_, device_pool_;
  std::vector<float> key_basis_, query_basis_, offset_, frequencies_;
  std::vector<int32_t> tokens_, positions_, query_begin_, tables_;
  std::vector<float> qkv_, rotated_;
  Tensor device_rotated_;
};

TEST_F(CudaAttentionTest, RopeStoresWhatTheCpuStores) {
  Fill({{70, 70}, {33, 1}}, 6, 2, 64, 16, 1);
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

TEST_F(CudaAttentionTest, WhatOnePassRotatesAndStoresIsWhatTwoDo) {
  for (const int head_dim : {64, 128}) {
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

TEST_F(CudaAttentionTest, RopeRotatesByAnglesThatFp32WouldLose) {
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
    backend_->RopeAndStoreKv(batch, qkv, 1, kv, {pairing, kDim / 2, Floats(frequencies)}, {});
    const auto got = Get(qkv);
    const double angle = double{0.987654f} * 131071;
    for (int h = 0; h < 2; ++h) {
      for (int i = 0; i < kDim / 4; ++i) {
        const int a = h * kDim + (pairing == RopePairing::kAdjacent ? 2 * i : i);
        const int b = h * kDim + (pairing == RopePairing::kAdjacent ? 2 * i + 1 : i + kDim / 4);
        ASSERT_NEAR(got[a], before[a] * std::cos(angle) - before[b] * std::sin(angle), 1e-5);
        ASSERT_NEAR(got[b], before[a] * std::sin(angle) + before[b] * std::cos(angle), 1e-5);
      }
      for (int c = kDim / 2; c < kDim; ++c) ASSERT_EQ(got[h * kDim + c], before[h * kDim + c]);
    }
    for (int c = 2 * kDim; c < 3 * kDim; ++c) ASSERT_EQ(got[c], before[c]);
  }
}

TEST_F(CudaAttentionTest, DenseRowsEqualTheDoublePrecisionSoftmaxOverScatteredBlocks) {
  struct Case {
    std::vector<Sequence> sequences;
    int heads, kv_heads, head_dim;
  };
  const Case cases[] = {
      {{{1, 1}, {33, 1}, {256, 1}, {257, 1}, {700, 1}}, 9, 3, 64},
      {{{40, 40}, {300, 20}, {517, 133}, {90, 1}}, 6, 2, 128},
      {{{129, 129}, {600, 1}}, 4, 4, 128},
      {{{1000, 1000}}, 8, 1, 64},
      {{{127, 2}, {64, 64}, {65, 65}, {128, 128}}, 2, 1, 128},
  };
  uint32_t seed = 20;
  for (const Case& c : cases) {
    Fill(c.sequences, c.heads, c.kv_heads, c.head_dim, 16, seed++);
    const auto got = OnDevice({});
    const int group = c.heads / c.kv_heads;
    std::vector<float> wanted(got.size());
    for (size_t s = 0; s < c.sequences.size(); ++s) {
      for (int row = query_begin_[s]; row < query_begin_[s + 1]; ++row) {
        for (int h = 0; h < c.heads; ++h) {
          const int context = positions_[row] + 1;
          std::vector<double> weights(context);
          const auto key = [&](int j) {
            return cpu_pool_.kv.key(tables_[s * max_blocks_ + j / kBlockTokens], h / group,
                                    j % kBlockTokens);
          };
          double sum = 0;
          for (int j = 0; j < context; ++j) {
            double dot = 0;
            for (int i = 0; i < c.head_dim; ++i) {
              dot += double{rotated_[int64_t{row} * columns_ + h * c.head_dim + i]} *
                     HalfToFloat(key(j)[i]);
            }
            weights[j] = std::exp(dot / std::sqrt(c.head_dim));
            sum += weights[j];
          }
          for (int i = 0; i < c.head_dim; ++i) {
            double want = 0;
            for (int j = 0; j < context; ++j) {
              want += weights[j] / sum * HalfToFloat(key(j)[c.head_dim + i]);
            }
            wanted[(int64_t{row} * c.heads + h) * c.head_dim + i] = static_cast<float>(want);
          }
        }
      }
    }
    // bf16 results; fp16 queries and softmax weights in tiles.
    EXPECT_LT(RelativeError(got, wanted), 5e-3) << "case " << seed - 21;
  }
}

TEST_F(CudaAttentionTest, SelectingRowsEqualTheCpus) {
  // Rows of one sequence that select, beside decoding ones and a prompt.
  Fill({{700, 1}, {300, 3}, {90, 40}, {1500, 1}}, 6, 2, 64, 16, 30);
  for (const SelectionKind kind :
       {SelectionKind::kLabels, SelectionKind::kScores, SelectionKind::kWindow}) {
    std::vector<Selection> selections(tokens_.size(), Selection{kind, 0.125f, 0});
    for (int row = 4; row < 44; ++row) selections[row] = {};
    selections.back() = {kind, 1, 77};
    std::vector<float> recalls;
    std::vector<float> cpu_recalls;
    const auto got = OnDevice(selections, &recalls);
    const auto want = OnCpu(selections, &cpu_recalls);
    // Both keep the best tokens; near the budget's end they may differ in single ones, whose
    // approximate scores differ in their last place.
    EXPECT_LT(RelativeError(got, want), 2e-2) << static_cast<int>(kind);
    ASSERT_EQ(recalls.size(), cpu_recalls.size());
    for (size_t i = 0; i < recalls.size(); ++i) {
      EXPECT_NEAR(recalls[i], cpu_recalls[i], 1e-2) << static_cast<int>(kind) << ", probe " << i;
    }
  }
}

TEST_F(CudaAttentionTest, RowsOfMoreMemoryThanACallTakesEqualTheCpus) {
  // Lists of some 5,000 entries for 6 heads of each row come to more than 64 MiB.
  Fill({{5000, 700}}, 6, 6, 64, 16, 31);
  const std::vector<Selection> selections(700, {SelectionKind::kLabels, 0.9f, 0});
  std::vector<float> recalls;
  std::vector<float> cpu_recalls;
  const auto got = OnDevice(selections, &recalls);
  const auto want = OnCpu(selections, &cpu_recalls);
  EXPECT_LT(RelativeError(got, want), 2e-2);
  ASSERT_EQ(recalls.size(), cpu_recalls.size());
  for (size_t i = 0; i < recalls.size(); ++i) EXPECT_NEAR(recalls[i], cpu_recalls[i], 1e-2) << i;
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
