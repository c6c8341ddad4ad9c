// Operators that compute each number of a row for itself, or from its row alone, against direct
// float64 computations.

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/cpu_backend.h"
#include "tests/kernels/reference.h"

namespace winnow::test {
namespace {

// `row` over the root of its mean square, times the weights.
std::vector<double> Normed(const float* row, const float* weight, int64_t columns, double epsilon) {
  double squares = 0;
  for (int64_t c = 0; c < columns; ++c) squares += double{row[c]} * row[c];
  const double norm = std::sqrt(squares / static_cast<double>(columns) + epsilon);
  std::vector<double> normed;
  for (int64_t c = 0; c < columns; ++c) normed.push_back(row[c] / norm * weight[c]);
  return normed;
}

TEST(RmsNorm, EqualsTheDoublePrecisionFormula) {
  const auto backend = CreateCpuBackend({.threads = 2});
  std::mt19937 random(10);
  for (const int64_t columns : {16, 576, 1001}) {
    auto x = RandomFloats(3 * columns, random, 5);
    auto weight = RandomFloats(columns, random);
    std::vector<float> out(x.size());
    backend->RmsNorm(View(x, columns), weight.data(), 1e-5f, View(out, columns));
    for (int64_t t = 0; t < 3; ++t) {
      const auto want = Normed(&x[t * columns], weight.data(), columns, 1e-5);
      for (int64_t c = 0; c < columns; ++c) ASSERT_NEAR(out[t * columns + c], want[c], 2e-6);
    }
  }
}

TEST(AddNormalized, AddsTheDoublePrecisionFormula) {
  const auto backend = CreateCpuBackend({.threads = 2});
  std::mt19937 random(15);
  for (const int64_t columns : {16, 576, 1001}) {
    auto x = RandomFloats(3 * columns, random, 5);
    auto weight = RandomFloats(columns, random);
    auto sum = RandomFloats(3 * columns, random);
    const auto before = sum;
    backend->AddNormalized(View(x, columns), weight.data(), 1e-5f, View(sum, columns));
    for (int64_t t = 0; t < 3; ++t) {
      const auto want = Normed(&x[t * columns], weight.data(), columns, 1e-5);
      for (int64_t c = 0; c < columns; ++c) {
        ASSERT_NEAR(sum[t * columns + c], before[t * columns + c] + want[c], 2e-6);
      }
    }
  }
}

TEST(NormalizeHeads, NormsEveryHeadOfQueriesAndKeysAndLeavesValues) {
  const auto backend = CreateCpuBackend({.threads = 2});
  std::mt19937 random(16);
  constexpr int kHeads = 6;
  constexpr int kKvHeads = 2;
  for (const int head_dim : {64, 80, 96, 128, 256}) {
    const KvShape kv{.kv_heads = kKvHeads, .block_tokens = 32, .head_dim = head_dim};
    const int64_t columns = int64_t{kHeads + 2 * kKvHeads} * head_dim;
    auto qkv = RandomFloats(5 * columns, random, 3);
    const auto before = qkv;
    const auto of_queries = RandomFloats(head_dim, random);
    const auto of_keys = RandomFloats(head_dim, random);
    backend->NormalizeHeads(View(qkv, columns), kHeads, kv, of_queries.data(), of_keys.data(),
                            1e-6f);
    for (int64_t t = 0; t < 5; ++t) {
      for (int h = 0; h < kHeads + 2 * kKvHeads; ++h) {
        const int64_t at = t * columns + h * head_dim;
        std::vector<double> want(&before[at], &before[at] + head_dim);
        if (h < kHeads + kKvHeads) {
          const auto& weight = h < kHeads ? of_queries : of_keys;
          want = Normed(&before[at], weight.data(), head_dim, 1e-6);
        }
        for (int c = 0; c < head_dim; ++c) ASSERT_NEAR(qkv[at + c], want[c], 2e-6);
      }
    }
  }
}

double Activated(Activation activation, double x) {
  if (activation == Activation::kSilu) return x / (1 + std::exp(-x));
  const double bent = std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x);
  return x / 2 * (1 + std::tanh(bent));
}

TEST(Gate, EqualsTheDoublePrecisionFormula) {
  const auto backend = CreateCpuBackend({.threads = 2});
  std::mt19937 random(11);
  constexpr int64_t kFfn = 99;
  for (const Activation activation : {Activation::kSilu, Activation::kGeluTanh}) {
    auto gate_up = RandomFloats(2 * 2 * kFfn, random, 4);
    gate_up[0] = -60;  // far out, where an exponential is nothing or too much
    gate_up[1] = 60;
    std::vector<float> out(2 * kFfn);
    backend->Gate(activation, View(gate_up, 2 * kFfn), View(out, kFfn));
    for (int64_t t = 0; t < 2; ++t) {
      for (int64_t c = 0; c < kFfn; ++c) {
        const double gate = Activated(activation, gate_up[t * 2 * kFfn + c]);
        const double want = gate * gate_up[t * 2 * kFfn + kFfn + c];
        ASSERT_NEAR(out[t * kFfn + c], want, 1e-5 * std::max(1.0, std::abs(want)));
      }
    }
  }
}

TEST(SoftCap, BendsNumbersTowardsTheCap) {
  const auto backend = CreateCpuBackend({.threads = 2});
  std::mt19937 random(17);
  constexpr int64_t kColumns = 1003;
  auto logits = RandomFloats(3 * kColumns, random, 40);
  logits[0] = 1e6f;
  logits[1] = -1e6f;
  logits[2] = 1e-3f;
  const auto before = logits;
  backend->SoftCap(View(logits, kColumns), 30);
  for (size_t i = 0; i < logits.size(); ++i) {
    const double want = 30 * std::tanh(before[i] / 30.0);
    ASSERT_NEAR(logits[i], want, 1e-6 * std::max(1.0, std::abs(want)));
  }
}

TEST(Embed, ScalesTheRowsOfTheTokens) {
  const auto backend = CreateCpuBackend({.threads = 2});
  std::mt19937 random(18);
  constexpr int64_t kColumns = 96;
  const auto table = RandomFloats(7 * kColumns, random);
  const HostMatrix rows{DataType::kF32, 7, kColumns, std::as_bytes(std::span(table))};
  const auto embedding = backend->LoadEmbedding(rows);
  ASSERT_TRUE(embedding.ok()) << embedding.status();
  const std::vector<int32_t> tokens = {6, 0, 3}, positions = {0, 1, 2}, begin = {0, 3};
  const StepBatch batch{tokens, positions, begin, {}, 0, {}};
  for (const float scale : {1.0f, 22.5f}) {
    std::vector<float> out(3 * kColumns);
    backend->BeginStep(batch);
    backend->Embed(batch, **embedding, scale, View(out, kColumns));
    for (int64_t t = 0; t < 3; ++t) {
      for (int64_t c = 0; c < kColumns; ++c) {
        ASSERT_EQ(out[t * kColumns + c], scale * table[tokens[t] * kColumns + c]);
      }
    }
  }
}

}  // namespace
}  // namespace winnow::test
