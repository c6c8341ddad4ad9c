// The operators of the CUDA backend on rows against direct float64 computations.

#include <algorithm>
#include <cmath>
#include <random>
#include <span>
#include <vector>

#include "gtest/gtest.h"
#include "tests/kernels/block_copies.h"
#include "tests/kernels/cuda/cuda_backend_fixture.h"
#include "tests/kernels/reference.h"

namespace winnow::test {
namespace {

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
      const Tensor biased = Poisoned(rows, kOutputs, DataType::kBF16);
      backend_->MatMul(input, **matrix, Floats(bias), /*accumulate=*/true, added);
      backend_->MatMul(input, **matrix, nullptr, /*accumulate=*/false, rounded);
      backend_->MatMul(input, **matrix, Floats(bias), /*accumulate=*/false, biased);
      const auto got = Get(added);
      const auto got_rounded = Get(rounded);
      const auto got_biased = Get(biased);
      double error = 0;
      double rounded_error = 0;
      double biased_error = 0;
      double scale = 0;
      double biased_scale = 0;
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
          biased_error += std::pow(got_biased[at] - (product + bias[n]), 2);
          biased_scale += std::pow(product + bias[n], 2);
          scale += product * product;
        }
      }
      EXPECT_LT(std::sqrt(error / scale), 1e-5) << DataTypeName(type) << ", " << rows << " rows";
      EXPECT_LT(std::sqrt(rounded_error / scale), kBf16Error) << DataTypeName(type);
      // Rounded twice.
      EXPECT_LT(std::sqrt(biased_error / biased_scale), 2 * kBf16Error) << DataTypeName(type);
    }
  }
}

TEST_F(CudaBackendTest, BlocksComeBackFromTheirSlotsWhole) {
  ExpectBlocksComeBack(*backend_, /*parts=*/1, /*copies=*/1);
  // More than one launch takes, of both.
  ExpectBlocksComeBack(*backend_, /*parts=*/70, /*copies=*/300);
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

double RootMeanSquare(std::span<const float> x, double epsilon) {
  double squares = 0;
  for (const float value : x) squares += double{value} * value;
  return std::sqrt(squares / static_cast<double>(x.size()) + epsilon);
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
      const double norm = RootMeanSquare(std::span(x).subspan(t * columns, columns), 1e-5);
      for (int64_t c = 0; c < columns; ++c) {
        const double want = x[t * columns + c] / norm * weight[c];
        ASSERT_NEAR(got[t * columns + c], want, kBf16Error * std::abs(want) + 1e-7) << columns;
      }
    }
  }
}

TEST_F(CudaBackendTest, AddNormalizedAddsWhatTheDoublePrecisionFormulaSays) {
  std::mt19937 random(14);
  for (const int64_t columns : {16, 576, 1001, 4096, 16384}) {
    const auto x = RandomFloats(3 * columns, random, 5);
    const auto before = RandomFloats(3 * columns, random, 20);
    const auto weight = RandomFloats(columns, random);
    const Tensor sum = Put(before, columns);
    backend_->AddNormalized(Put(x, columns), Floats(weight), 1e-6f, sum);
    const auto got = Get(sum);
    for (int64_t t = 0; t < 3; ++t) {
      const double norm = RootMeanSquare(std::span(x).subspan(t * columns, columns), 1e-6);
      for (int64_t c = 0; c < columns; ++c) {
        const double want = before[t * columns + c] + x[t * columns + c] / norm * weight[c];
        ASSERT_NEAR(got[t * columns + c], want, 1e-5 * (std::abs(want) + 1)) << columns;
      }
    }
  }
}

TEST_F(CudaBackendTest, NormalizeHeadsNormsQueriesAndKeysAndLeavesValues) {
  std::mt19937 random(15);
  for (const int head_dim : {64, 80, 96, 128, 256}) {
    constexpr int kHeads = 14, kKvHeads = 2, kRows = 5;
    const int64_t columns = (kHeads + 2 * kKvHeads) * head_dim;
    const auto before = RandomFloats(kRows * columns, random, 3);
    const std::vector<float> weights[] = {RandomFloats(head_dim, random),
                                          RandomFloats(head_dim, random)};
    const Tensor qkv = Put(before, columns);
    backend_->NormalizeHeads(qkv, kHeads, {.kv_heads = kKvHeads, .head_dim = head_dim},
                             Floats(weights[0]), Floats(weights[1]), 1e-6f);
    const auto got = Get(qkv);
    for (int64_t i = 0; i < kRows * columns; ++i) {
      const int64_t head = i % columns / head_dim;
      if (head >= kHeads + kKvHeads) {
        ASSERT_EQ(got[i], before[i]);
        continue;
      }
      const int64_t first = i - i % head_dim;
      const double norm = RootMeanSquare(std::span(before).subspan(first, head_dim), 1e-6);
      const double want = before[i] / norm * weights[head < kHeads ? 0 : 1][i % head_dim];
      ASSERT_NEAR(got[i], want, 1e-6 + 1e-5 * std::abs(want)) << head_dim;
    }
  }
}

TEST_F(CudaBackendTest, SoftCapEqualsTheDoublePrecisionFormula) {
  std::mt19937 random(16);
  for (const float cap : {0.5f, 30.0f}) {
    auto logits = RandomFloats(3 * 1001, random, 30);
    logits[7] = 1e30f;
    logits[8] = -INFINITY;
    logits[9] = NAN;
    const Tensor capped = Put(logits, 1001);
    backend_->SoftCap(capped, cap);
    const auto got = Get(capped);
    for (size_t i = 0; i < logits.size(); ++i) {
      if (i == 9) continue;
      ASSERT_NEAR(got[i], cap * std::tanh(double{logits[i]} / cap), 1e-6 * cap);
    }
    EXPECT_TRUE(std::isnan(got[9]));
  }
}

TEST_F(CudaBackendTest, GateEqualsTheDoublePrecisionFormula) {
  std::mt19937 random(11);
  for (const Activation activation : {Activation::kSilu, Activation::kGeluTanh}) {
    for (const int64_t ffn : {99, 1536, 11008}) {
      auto gate_up = RandomFloats(2 * 2 * ffn, random, 4);
      for (float& value : gate_up) value = AsBf16(value);
      const Tensor out = Poisoned(2, ffn, DataType::kBF16);
      backend_->Gate(activation, Put(gate_up, 2 * ffn, DataType::kBF16), out);
      const auto got = Get(out);
      for (int64_t t = 0; t < 2; ++t) {
        for (int64_t c = 0; c < ffn; ++c) {
          const double gate = gate_up[t * 2 * ffn + c];
          const double u = std::sqrt(2 / M_PI) * (gate + 0.044715 * gate * gate * gate);
          const double activated = activation == Activation::kSilu ? gate / (1 + std::exp(-gate))
                                                                   : gate / 2 * (1 + std::tanh(u));
          const double want = activated * gate_up[t * 2 * ffn + ffn + c];
          ASSERT_NEAR(got[t * ffn + c], want, kBf16Error * std::abs(want) + 1e-6);
        }
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
  backend_->Embed(batch, **embedding, 5.5f, rows);
  backend_->GatherLogitRows(batch, 1, rows, last);
  const auto got = Get(rows);
  const auto got_last = Get(last);
  for (int t = 0; t < 4; ++t) {
    for (int c = 0; c < kColumns; ++c) {
      ASSERT_EQ(got[t * kColumns + c], 5.5f * AsBf16(table[tokens[t] * kColumns + c]));
    }
  }
  EXPECT_TRUE(std::equal(got_last.begin(), got_last.end(), got.begin() + 3 * kColumns));
}

TEST_F(CudaBackendTest, WhatIsAllocatedIsNoLongerFree) {
  constexpr int64_t kBytes = int64_t{256} << 20;
  const DeviceMemory before = backend_->OwnMemory().value();
  const auto memory = backend_->Allocate(kBytes);
  ASSERT_TRUE(memory.ok()) << memory.status();
  const DeviceMemory after = backend_->OwnMemory().value();
  EXPECT_EQ(after.total, before.total);
  EXPECT_LE(after.free, before.free - kBytes);
  EXPECT_LE(before.free, before.total);
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
  for (const int head_dim : {64, 80, 96, 128, 256}) {
    kv.head_dim = head_dim;
    EXPECT_TRUE(backend_->CheckAttention(16, kv, {}).ok()) << head_dim;
  }
  kv.head_dim = 72;
  EXPECT_EQ(backend_->CheckAttention(16, kv, {}).code(), absl::StatusCode::kUnimplemented);
}

}  // namespace
}  // namespace winnow::test
