// The operators of a backend against direct float64 computations.

#include <algorithm>
#include <cstring>
#include <memory>
#include <numeric>
#include <tuple>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/cpu_backend.h"
#include "tests/kernels/block_copies.h"
#include "tests/kernels/reference.h"

namespace winnow::test {
namespace {

std::vector<float> Widen(DataType type, const std::vector<std::byte>& data, int64_t rows,
                         int64_t columns) {
  std::vector<float> weights(rows * columns);
  for (int64_t r = 0; r < rows; ++r) {
    Dequantize(type, data.data() + r * RowBytes(type, columns), columns, &weights[r * columns]);
  }
  return weights;
}

class MatMulTest : public testing::TestWithParam<std::tuple<DataType, bool>> {};

TEST_P(MatMulTest, EqualsTheDoublePrecisionProductOfDequantisedWeights) {
  const auto [type, f32] = GetParam();
  const auto backend = CreateCpuBackend({.threads = 2, .f32_matmul = f32});
  std::mt19937 random(7);
  for (const int64_t rows : {1, 2, 5, 9, 33, 200}) {
    const int64_t columns = 512;
    const int64_t outputs = rows % 2 == 0 ? 48 : 53;  // a partly filled last panel, too
    const auto data = RandomWeights(type, outputs, columns, random);
    const auto weights = Widen(type, data, outputs, columns);
    const HostMatrix part{type, outputs, columns, data};
    const auto matrix = backend->LoadMatrix({&part, 1});
    ASSERT_TRUE(matrix.ok()) << matrix.status();
    auto x = RandomFloats(rows * columns, random);
    auto bias = RandomFloats(outputs, random);
    auto out = RandomFloats(rows * outputs, random);
    const auto before = out;
    backend->MatMul(View(x, columns), **matrix, bias.data(), /*accumulate=*/true,
                    View(out, outputs));
    double error = 0;
    double scale = 0;
    for (int64_t t = 0; t < rows; ++t) {
      for (int64_t n = 0; n < outputs; ++n) {
        double product = 0;
        for (int64_t k = 0; k < columns; ++k) {
          product += double{x[t * columns + k]} * weights[n * columns + k];
        }
        const double want = product + bias[n] + before[t * outputs + n];
        error += std::pow(out[t * outputs + n] - want, 2);
        scale += product * product;
      }
    }
    // Rounding of activations to 8 bits costs about 0.5 %; fp32 arithmetic nothing to speak of.
    const bool exact =
        f32 || type == DataType::kF32 || type == DataType::kF16 || type == DataType::kBF16;
    EXPECT_LT(std::sqrt(error / scale), exact ? 1e-5 : 1e-2) << rows << " rows";
  }
}

INSTANTIATE_TEST_SUITE_P(Types, MatMulTest,
                         testing::Combine(testing::ValuesIn(kAllTypes), testing::Bool()),
                         [](const auto& info) {
                           return std::string(DataTypeName(std::get<0>(info.param))) +
                                  (std::get<1>(info.param) ? "_f32" : "_native");
                         });

TEST(MatMulRowInvariance, ARowIsTheSameWhateverElseIsInTheCall) {
  const auto backend = CreateCpuBackend({.threads = 2});
  std::mt19937 random(8);
  constexpr int64_t kRows = 77;
  constexpr int64_t kColumns = 256;
  constexpr int64_t kOutputs = 80;
  for (const DataType type : kAllTypes) {
    const auto data = RandomWeights(type, kOutputs, kColumns, random);
    const HostMatrix part{type, kOutputs, kColumns, data};
    const auto matrix = backend->LoadMatrix({&part, 1});
    ASSERT_TRUE(matrix.ok());
    auto x = RandomFloats(kRows * kColumns, random);
    std::vector<float> together(kRows * kOutputs);
    backend->MatMul(View(x, kColumns), **matrix, nullptr, false, View(together, kOutputs));
    for (int64_t t = 0; t < kRows; ++t) {
      std::vector<float> alone(kOutputs);
      backend->MatMul({x.data() + t * kColumns, 1, kColumns, kColumns}, **matrix, nullptr, false,
                      View(alone, kOutputs));
      ASSERT_EQ(std::memcmp(alone.data(), &together[t * kOutputs], kOutputs * sizeof(float)), 0)
          << DataTypeName(type) << " row " << t;
    }
  }
}

TEST(MatMul, StacksPartsOfDifferentTypes) {
  const auto backend = CreateCpuBackend({.threads = 1});
  std::mt19937 random(9);
  const auto first = RandomWeights(DataType::kQ4_0, 24, 256, random);
  const auto second = RandomWeights(DataType::kQ6_K, 8, 256, random);
  const HostMatrix parts[] = {{DataType::kQ4_0, 24, 256, first}, {DataType::kQ6_K, 8, 256, second}};
  const auto stacked = backend->LoadMatrix(parts);
  ASSERT_TRUE(stacked.ok());
  EXPECT_EQ((*stacked)->rows(), 32);
  auto x = RandomFloats(256, random);
  std::vector<float> out(32);
  backend->MatMul(View(x, 256), **stacked, nullptr, false, View(out, 32));
  std::vector<float> separate(32);
  for (int i = 0; i < 2; ++i) {
    const auto part = backend->LoadMatrix({&parts[i], 1});
    Tensor view{separate.data() + i * 24, 1, parts[i].rows, parts[i].rows};
    backend->MatMul(View(x, 256), **part, nullptr, false, view);
  }
  EXPECT_EQ(out, separate);
}

TEST(MatMul, RefusesPartsOfDifferentWidth) {
  const auto backend = CreateCpuBackend({.threads = 1});
  const std::vector<std::byte> data(4096);
  const HostMatrix parts[] = {{DataType::kF32, 2, 64, std::span(data).first(512)},
                              {DataType::kF32, 2, 32, std::span(data).first(256)}};
  EXPECT_EQ(backend->LoadMatrix(parts).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(CpuMatrixBytes, AreThoseOfTheLoadedMatrix) {
  const auto backend = CreateCpuBackend({.threads = 1});
  std::mt19937 random(7);
  for (const DataType type : kAllTypes) {
    for (const int64_t rows : {16, 53}) {  // 53: a partly filled last panel
      const auto data = RandomWeights(type, rows, 512, random);
      const HostMatrix part{type, rows, 512, data};
      const auto matrix = backend->LoadMatrix({&part, 1});
      ASSERT_TRUE(matrix.ok()) << matrix.status();
      EXPECT_EQ(CpuMatrixBytes(type, rows, 512), (*matrix)->bytes()) << DataTypeName(type);
    }
  }
}

TEST(Rope, RotatesEachPairByPositionTimesFrequency) {
  const auto backend = CreateCpuBackend({.threads = 1});
  constexpr int kHeads = 3;
  constexpr int kKvHeads = 1;
  constexpr int kDim = 32;
  constexpr int kRopeDim = 16;
  std::mt19937 random(12);
  for (const RopePairing pairing : {RopePairing::kAdjacent, RopePairing::kHalves}) {
    KvView kv{{4, kKvHeads, 32, kDim}};
    auto memory = *backend->Allocate(kv.bytes());
    kv.data = memory->data();
    constexpr int kColumns = (kHeads + 2 * kKvHeads) * kDim;
    auto qkv = RandomFloats(2 * kColumns, random);
    const auto before = qkv;
    std::vector<float> frequencies(kRopeDim / 2);
    for (int i = 0; i < kRopeDim / 2; ++i) {
      frequencies[i] = static_cast<float>(std::pow(10000.0, -2.0 * i / kRopeDim));
    }
    const std::vector<int32_t> tokens{0, 0}, positions{70, 71}, begin{0, 2}, table{3, 1, 2};
    const StepBatch batch{tokens, positions, begin, table, 3, {}};
    backend->BeginStep(batch);
    backend->RopeAndStoreKv(batch, View(qkv, kColumns), kHeads, kv,
                            {pairing, kRopeDim, frequencies.data()}, {});
    for (int t = 0; t < 2; ++t) {
      for (int h = 0; h < kHeads + 2 * kKvHeads; ++h) {
        for (int c = 0; c < kDim; ++c) {
          const int at = t * kColumns + h * kDim;
          double want = before[at + c];
          if (c < kRopeDim && h < kHeads + kKvHeads) {
            const int i = pairing == RopePairing::kAdjacent ? c / 2 : c % (kRopeDim / 2);
            const int a = pairing == RopePairing::kAdjacent ? 2 * i : i;
            const int b = pairing == RopePairing::kAdjacent ? 2 * i + 1 : i + kRopeDim / 2;
            const double angle = double{frequencies[i]} * positions[t];
            want = c == a ? before[at + a] * std::cos(angle) - before[at + b] * std::sin(angle)
                          : before[at + a] * std::sin(angle) + before[at + b] * std::cos(angle);
          }
          ASSERT_NEAR(qkv[at + c], want, 1e-5);
          if (h < kHeads) continue;  // keys and values are stored, at their block and slot
          const int part = h - kHeads;
          const uint16_t* key = kv.key(2, part % kKvHeads, positions[t] % 32);
          const float stored = HalfToFloat(key[part / kKvHeads * kDim + c]);
          ASSERT_EQ(stored, HalfToFloat(FloatToHalf(qkv[at + c])));
        }
      }
    }
  }
}

// Rows of one sequence at `positions`, in scattered blocks of 32 tokens.
struct RopeRows {
  static constexpr int kHeads = 6;
  static constexpr int kKvHeads = 2;
  static constexpr int kDim = 64;
  static constexpr int kColumns = (kHeads + 2 * kKvHeads) * kDim;

  explicit RopeRows(std::vector<int32_t> at)
      : positions(std::move(at)),
        tokens(positions.size(), 0),
        begin{0, static_cast<int32_t>(positions.size())} {}

  StepBatch Batch() const { return {tokens, positions, begin, table, 4, {}}; }

  std::vector<int32_t> positions, tokens, begin;
  std::vector<int32_t> table = {3, 1, 0, 2};
};

std::vector<float> Frequencies(double base) {
  std::vector<float> frequencies;
  for (int i = 0; i < RopeRows::kDim / 2; ++i) {
    frequencies.push_back(static_cast<float>(std::pow(base, -2.0 * i / RopeRows::kDim)));
  }
  return frequencies;
}

TEST(Rope, WhatOnePassRotatesAndStoresIsWhatTwoDo) {
  const auto backend = CreateCpuBackend({.threads = 2});
  std::mt19937 random(13);
  constexpr int kWidth = 16;
  const int64_t matrix = RopeRows::kKvHeads * RopeRows::kDim * kWidth;
  const auto key_basis = RandomFloats(matrix, random);
  const auto offset = RandomFloats(RopeRows::kKvHeads * kWidth, random);
  const LabelCodec basis{key_basis.data(), nullptr, offset.data()};
  const auto frequencies = Frequencies(10000);
  const KvShape shape{4, RopeRows::kKvHeads, 32, RopeRows::kDim, kWidth};
  std::vector<int32_t> positions(70);  // enough rows for several workers
  std::iota(positions.begin(), positions.end(), 50);
  const RopeRows rows(positions);
  const auto before = RandomFloats(std::ssize(positions) * RopeRows::kColumns, random);
  for (const RopePairing pairing : {RopePairing::kAdjacent, RopePairing::kHalves}) {
    for (const bool labels : {false, true}) {
      const Rope rope{pairing, RopeRows::kDim, frequencies.data()};
      std::vector<float> qkv[2];
      std::vector<std::byte> stored[2];
      for (const bool fused : {false, true}) {
        const auto memory = *backend->Allocate(shape.bytes() + shape.label_bytes());
        const KvView kv{shape, memory->data(), labels ? memory->data() + shape.bytes() : nullptr};
        qkv[fused] = before;
        const Tensor view = View(qkv[fused], RopeRows::kColumns);
        backend->BeginStep(rows.Batch());
        if (fused) {
          backend->RopeAndStoreKv(rows.Batch(), view, RopeRows::kHeads, kv, rope, basis);
        } else {
          backend->ApplyRope(rows.Batch(), view, RopeRows::kHeads, kv, rope);
          backend->StoreKv(rows.Batch(), view, RopeRows::kHeads, kv, basis);
        }
        stored[fused].assign(memory->data(), memory->data() + memory->bytes());
      }
      EXPECT_EQ(qkv[0], qkv[1]);
      EXPECT_EQ(stored[0], stored[1]);
      EXPECT_NE(qkv[0], before);
      EXPECT_NE(std::ranges::count(stored[0], std::byte{0}), std::ssize(stored[0]));
    }
  }
}

TEST(Rope, LayersWithTablesOfTheirOwnMayTakeTurns) {
  const auto backend = CreateCpuBackend({.threads = 1});
  std::mt19937 random(14);
  const KvShape shape{4, RopeRows::kKvHeads, 32, RopeRows::kDim};
  const auto before = RandomFloats(2 * RopeRows::kColumns, random);
  std::vector<float> wide = Frequencies(10000);
  const std::vector<float> narrow = Frequencies(1000000);
  const auto rotated = [&](Backend& by, const RopeRows& rows, const std::vector<float>& table,
                           int dim) {
    std::vector<float> qkv = before;
    by.ApplyRope(rows.Batch(), View(qkv, RopeRows::kColumns), RopeRows::kHeads, shape,
                 {RopePairing::kHalves, dim, table.data()});
    return qkv;
  };
  const auto alone = [&](const RopeRows& rows, const std::vector<float>& table, int dim) {
    const auto fresh = CreateCpuBackend({.threads = 1});
    fresh->BeginStep(rows.Batch());
    return rotated(*fresh, rows, table, dim);
  };
  for (int step = 0; step < 3; ++step) {
    const RopeRows rows({20 + step, 21 + step});
    backend->BeginStep(rows.Batch());
    for (int layer = 0; layer < 7; ++layer) {
      const std::vector<float>& table = layer % 3 == step ? wide : narrow;
      const int dim = layer == 5 ? RopeRows::kDim / 2 : RopeRows::kDim;
      EXPECT_EQ(rotated(*backend, rows, table, dim), alone(rows, table, dim))
          << "step " << step << ", layer " << layer;
    }
    wide[3] *= 2;  // what a step knows of a table is forgotten with it
  }
}

TEST(Rope, MultipliesWhatItRotatesWithItsMagnitude) {
  const auto backend = CreateCpuBackend({.threads = 1});
  std::mt19937 random(19);
  const KvShape shape{4, RopeRows::kKvHeads, 32, RopeRows::kDim};
  const auto before = RandomFloats(2 * RopeRows::kColumns, random);
  const auto frequencies = Frequencies(10000);
  const RopeRows rows({40, 41});
  constexpr int kRotated = 48;
  const auto rotated = [&](float magnitude) {
    std::vector<float> qkv = before;
    backend->ApplyRope(rows.Batch(), View(qkv, RopeRows::kColumns), RopeRows::kHeads, shape,
                       {RopePairing::kHalves, kRotated, frequencies.data(), magnitude});
    return qkv;
  };
  backend->BeginStep(rows.Batch());
  const auto plain = rotated(1);
  const auto longer = rotated(1.25f);
  for (size_t i = 0; i < plain.size(); ++i) {
    const size_t column = i % RopeRows::kColumns;
    const bool is_value = column >= (RopeRows::kHeads + RopeRows::kKvHeads) * RopeRows::kDim;
    const bool turns = !is_value && column % RopeRows::kDim < kRotated;
    ASSERT_NEAR(longer[i], plain[i] * (turns ? 1.25 : 1), 1e-6) << i;
  }
}

TEST(DescribeTokens, EqualsDoublePrecisionForThoseThatWantItAndLeavesOthersAlone) {
  constexpr int kVocab = 32003;
  constexpr int kFirst = 10;
  const auto backend = CreateCpuBackend({.threads = 2});
  std::mt19937 random(21);
  std::vector<float> logits;
  for (const float scale : {0.0f, 3.0f, 200.0f}) {
    for (int i = 0; i < kVocab; ++i) {
      logits.push_back(std::uniform_real_distribution<float>(-scale, scale)(random));
    }
  }
  logits[kVocab + 7] = -INFINITY;
  const std::vector<int> wanted = {0, 20, -1, 3, 20};  // a row may be chosen from more than once
  const std::vector<int32_t> tokens = {5, 100, 9, kLogitsNotFinite, 31999};
  std::vector<TokenChoice> choices(wanted.size());
  for (size_t i = 0; i < wanted.size(); ++i) {
    choices[i].row = kFirst + static_cast<int>(i / 2);
    choices[i].alternatives = wanted[i];
  }
  std::vector<TokenDescription> described(choices.size(), {-7, {}});
  backend->DescribeTokens(View(logits, kVocab), kFirst, choices, tokens.data(), described.data());
  for (size_t i = 0; i < choices.size(); ++i) {
    SCOPED_TRACE(i);
    if (wanted[i] < 0 || tokens[i] < 0) {
      EXPECT_EQ(described[i].logprob, -7);
      continue;
    }
    const float* const row = &logits[(i / 2) * kVocab];
    const double largest = *std::max_element(row, row + kVocab);
    double sum = 0;
    for (int token = 0; token < kVocab; ++token) sum += std::exp(row[token] - largest);
    const auto expect = [&](double logprob, int32_t token) {
      const double exact = row[token] - largest - std::log(sum);
      EXPECT_NEAR(logprob, exact, std::max(1e-5, -1e-6 * exact)) << token;
    };
    std::vector<int32_t> order(kVocab);
    std::iota(order.begin(), order.end(), 0);
    std::ranges::stable_sort(order, std::greater<>(), [&](int32_t token) { return row[token]; });
    expect(described[i].logprob, tokens[i]);
    ASSERT_EQ(std::ssize(described[i].alternatives), wanted[i]);
    for (int j = 0; j < wanted[i]; ++j) {
      const TokenLogprob& alternative = described[i].alternatives[static_cast<size_t>(j)];
      EXPECT_EQ(alternative.token, order[static_cast<size_t>(j)]);
      expect(alternative.logprob, alternative.token);
    }
  }
}

TEST(BlockCopies, BlocksComeBackFromTheirSlotsWhole) {
  const auto backend = CreateCpuBackend({.threads = 2});
  ExpectBlocksComeBack(*backend, /*parts=*/1, /*copies=*/1);
  ExpectBlocksComeBack(*backend, /*parts=*/7, /*copies=*/40);
}

TEST(Float16, ConvertsEveryHalfBackAndForth) {
  for (uint32_t half = 0; half < 0x10000; ++half) {
    const float value = HalfToFloat(static_cast<uint16_t>(half));
    if (std::isnan(value)) continue;
    ASSERT_EQ(FloatToHalf(value), half);
  }
  EXPECT_EQ(FloatToHalf(65519.0f), 0x7bff);
  EXPECT_EQ(FloatToHalf(65520.0f), 0x7c00);
  EXPECT_EQ(FloatToHalf(1.0f + 0x1p-11f), 0x3c00);  // a tie goes to the even neighbour
  EXPECT_EQ(FloatToHalf(1.0f + 3 * 0x1p-11f), 0x3c02);
}

}  // namespace
}  // namespace winnow::test
