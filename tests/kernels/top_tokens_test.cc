// Choosing the largest of many weights, against sorting.

#include "kernels/cpu/top_tokens.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace winnow::cpu {
namespace {

std::vector<int32_t> Sorted(const std::vector<float>& weights, int count, int k, int32_t base) {
  std::vector<int32_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, [&](int a, int b) { return weights[a] > weights[b]; });
  order.resize(k);
  std::ranges::sort(order);
  for (int32_t& position : order) position += base;
  return order;
}

// Room for the vectors that read past the end, filled with what must not matter.
std::vector<float> Padded(std::vector<float> weights) {
  weights.resize(weights.size() + 32, NAN);
  return weights;
}

TEST(TopTokensTest, AreThoseThatSortingPutsFirst) {
  std::mt19937 random(1);
  for (int round = 0; round < 300; ++round) {
    const int count = 1 + static_cast<int>(random() % 3000);
    const int k = static_cast<int>(random() % (count + 1));
    std::vector<float> weights(count);
    // Spread over many powers of two, as softmax weights are.
    std::exponential_distribution<float> spread(round % 2 == 0 ? 0.1f : 5.0f);
    for (float& weight : weights) weight = std::exp2(-spread(random));
    weights = Padded(weights);
    std::vector<int32_t> chosen(k);
    TopTokensScratch scratch;
    TopTokens(weights.data(), count, k, 7, chosen.data(), &scratch);
    ASSERT_EQ(chosen, Sorted(weights, count, k, 7)) << count << " " << k;
  }
}

TEST(TopTokensTest, OfEqualWeightsTheFirstWin) {
  std::mt19937 random(2);
  const float values[] = {0.0f, 1e-42f, 0x1p-126f, 0.25f, 0.2500001f, 1.0f};
  for (int round = 0; round < 300; ++round) {
    const int count = 1 + static_cast<int>(random() % 500);
    const int k = static_cast<int>(random() % (count + 1));
    const auto distinct = 1 + random() % std::size(values);
    std::vector<float> weights(count);
    for (float& weight : weights) weight = values[random() % distinct];
    weights = Padded(weights);
    std::vector<int32_t> chosen(k);
    TopTokensScratch scratch;
    TopTokens(weights.data(), count, k, 0, chosen.data(), &scratch);
    ASSERT_EQ(chosen, Sorted(weights, count, k, 0)) << count << " " << k;
  }
}

TEST(TopTokensTest, WhatIsNoNumberCountsAsTheLargest) {
  std::mt19937 random(5);
  for (int round = 0; round < 400; ++round) {
    const int count = 1 + static_cast<int>(random() % 3000);
    const int k = static_cast<int>(random() % (count + 1));
    std::vector<float> weights(count);
    std::vector<float> as_numbers(count);
    const unsigned one_in = round % 4 == 0 ? 1 : 1 + random() % 40;  // all of them, or some
    for (int t = 0; t < count; ++t) {
      const bool is_number = random() % one_in != 0;
      weights[t] = static_cast<float>(random() % 1000);
      as_numbers[t] = is_number ? weights[t] : INFINITY;
      if (!is_number) weights[t] = random() % 2 == 0 ? NAN : -NAN;
    }
    weights = Padded(weights);
    std::vector<int32_t> chosen(k);
    TopTokensScratch scratch;
    TopTokens(weights.data(), count, k, 0, chosen.data(), &scratch);
    ASSERT_EQ(chosen, Sorted(as_numbers, count, k, 0)) << count << " " << k;
  }
}

TEST(SoftmaxWeights2Test, AreWithinTheStatedErrorOfTheExactOnes) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal(0, 20);
  for (const int count : {1, 7, 16, 100, 2048}) {
    std::vector<float> scores(count + 16);
    for (float& score : scores) score = normal(random);
    const std::vector<float> before = scores;
    float max;
    const float sum = SoftmaxWeights2(count, scores.data(), &max);
    EXPECT_EQ(max, *std::max_element(before.begin(), before.begin() + count));
    double want_sum = 0;
    for (int t = 0; t < count; ++t) {
      const double want = std::exp2(double{before[t]} - max);
      want_sum += want;
      EXPECT_NEAR(scores[t], want, 2.1e-4 * want + 0x1p-126) << before[t] - max;
    }
    EXPECT_NEAR(sum, want_sum, 2.1e-4 * want_sum);
  }
}

TEST(SoftmaxWeights2Test, NeverReverseTheOrderOfScores) {
  std::vector<float> scores;
  for (int i = 0; i < 40000; ++i) scores.push_back(-static_cast<float>(i) * 0x1p-11f);
  const int count = static_cast<int>(scores.size());
  scores.resize(scores.size() + 16);
  float max;
  SoftmaxWeights2(count, scores.data(), &max);
  for (int i = 1; i < count; ++i) ASSERT_LE(scores[i], scores[i - 1]) << i;
}

TEST(WeightedSumTest, AddsHeadsByTheirFactors) {
  std::mt19937 random(4);
  std::uniform_real_distribution<float> uniform;
  std::vector<std::vector<float>> weights(5, std::vector<float>(112));
  std::vector<const float*> heads;
  for (auto& head : weights) {
    for (float& weight : head) weight = uniform(random);
    heads.push_back(head.data());
  }
  const float factors[] = {0.5f, 2, 0, 1, 0.125f};
  std::vector<float> out(112);
  WeightedSum(heads.data(), factors, 5, 99, out.data());
  for (int t = 0; t < 99; ++t) {
    double want = 0;
    for (int h = 0; h < 5; ++h) want += double{weights[h][t]} * factors[h];
    EXPECT_NEAR(out[t], want, 1e-6);
  }
}

}  // namespace
}  // namespace winnow::cpu
