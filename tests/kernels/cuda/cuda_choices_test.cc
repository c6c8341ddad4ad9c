// Choices and descriptions of tokens by the CUDA backend against those of the CPU.

#include <algorithm>
#include <array>
#include <cmath>
#include <random>
#include <span>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/token_chooser.h"
#include "tests/kernels/cuda/cuda_backend_fixture.h"
#include "tests/kernels/reference.h"

namespace winnow::test {
namespace {

using CudaChoicesTest = CudaBackendTest;

TEST_F(CudaChoicesTest, GreedyChoicesAreTheFirstOfTheLargestFiniteLogits) {
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
TEST_F(CudaChoicesTest, ChoosesTheTokensThatTheCpuChooses) {
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
TEST_F(CudaChoicesTest, DescribesTokensAsTheCpuDoes) {
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

}  // namespace
}  // namespace winnow::test
