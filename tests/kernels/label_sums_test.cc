// Sums over labels against the same in float64.

#include "kernels/cpu/label_sums.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace winnow::cpu {
namespace {

constexpr int kBlockTokens = 32;

/// Random labels in blocks that lie in any order, and weights over many powers of two.
class Labels {
 public:
  Labels(int tokens, int width, int heads, uint32_t seed)
      : tokens(tokens), width(width), heads(heads), random_(seed) {
    const int count = (tokens + kBlockTokens - 1) / kBlockTokens;
    const int block_bytes = kBlockTokens * width / 2;
    bytes_.resize(static_cast<size_t>(count * block_bytes));
    for (uint8_t& byte : bytes_) byte = static_cast<uint8_t>(random_());
    for (int b = 0; b < count; ++b) blocks_.push_back(bytes_.data() + b * block_bytes);
    std::ranges::shuffle(blocks_, random_);
    std::normal_distribution<float> normal(0, 3);
    weights.resize(static_cast<size_t>(heads));
    for (auto& of_head : weights) {
      of_head.assign(static_cast<size_t>(tokens + kPanelTokens), NAN);  // behind them is anything
      for (int t = 0; t < tokens; ++t) of_head[static_cast<size_t>(t)] = std::exp2(normal(random_));
    }
  }

  /// [heads, 2 + width]
  std::vector<std::vector<float>> Sum(const TokensLeftOut& left_out) const {
    auto changed = weights;
    std::vector<std::vector<float>> sums(weights.size(),
                                         std::vector<float>(static_cast<size_t>(2 + width)));
    std::vector<float*> of_weights, of_sums;
    for (auto& of_head : changed) of_weights.push_back(of_head.data());
    for (auto& of_head : sums) of_sums.push_back(of_head.data());
    SumCodes({blocks_.data(), kBlockTokens, width, tokens, tokens}, left_out, of_weights.data(),
             heads, of_sums.data());
    return sums;
  }

  int Code(int token, int i) const {
    const uint8_t byte = blocks_[static_cast<size_t>(token / kBlockTokens)]
                                [LabelOffset(token % kBlockTokens, width) + i / 8 * 64 + i % 4];
    return i % 8 < 4 ? byte & 15 : byte >> 4;
  }

  /// {sum of the weights that are left out, of those sampled, the latter's mean of codes}, by
  /// weights as they are or as they are rounded.
  std::vector<double> Expect(int h, const std::vector<int32_t>& left_out, bool rounds) const {
    std::vector<double> expected(static_cast<size_t>(2 + width));
    const auto& of_head = weights[static_cast<size_t>(h)];
    double largest = 0;
    std::vector<int> sampled;
    for (int t = 0; t < tokens; ++t) {
      const double weight = of_head[static_cast<size_t>(t)];
      if (std::ranges::binary_search(left_out, t)) {
        expected[0] += weight;
      } else if (t % 128 < 32) {
        largest = std::max(largest, weight);
        sampled.push_back(t);
      }
    }
    for (const int t : sampled) {
      const double weight = of_head[static_cast<size_t>(t)];
      const double by = rounds ? std::nearbyint(weight * 127 / largest) * largest / 127 : weight;
      expected[1] += by;
      for (int i = 0; i < width; ++i) expected[static_cast<size_t>(2 + i)] += by * Code(t, i);
    }
    for (int i = 0; i < width; ++i) expected[static_cast<size_t>(2 + i)] /= expected[1];
    return expected;
  }

  int tokens, width, heads;
  std::vector<std::vector<float>> weights;  ///< [heads, tokens and room for a panel]

 private:
  std::mt19937 random_;
  std::vector<uint8_t> bytes_;
  std::vector<const uint8_t*> blocks_;
};

std::vector<int32_t> EveryThird(int tokens) {
  std::vector<int32_t> positions;
  for (int t = 1; t < tokens; t += 3) positions.push_back(t);
  return positions;
}

/// The positions of the largest weights, as choosing leaves them out.
std::vector<int32_t> Largest(const Labels& labels, int count) {
  std::vector<int32_t> order(static_cast<size_t>(labels.tokens));
  std::iota(order.begin(), order.end(), 0);
  const auto of_heads = [&](int32_t t) {
    float sum = 0;
    for (const auto& of_head : labels.weights) sum += of_head[static_cast<size_t>(t)];
    return sum;
  };
  std::ranges::sort(order, [&](int32_t a, int32_t b) { return of_heads(a) > of_heads(b); });
  order.resize(static_cast<size_t>(count));
  std::ranges::sort(order);
  return order;
}

TEST(LabelSumsTest, AreThoseOfRoundedWeightsInDoublePrecision) {
  uint32_t seed = 0;
  for (const int width : {8, 16, 24, 32, 56, 64}) {
    for (const int heads : {1, 2, 3, 4, 7}) {
      for (const int tokens : {2, 16, 100, 513, 1050}) {
        const Labels labels(tokens, width, heads, ++seed);
        const auto positions = EveryThird(tokens);
        const auto sums = labels.Sum({positions, 0});
        for (int h = 0; h < heads; ++h) {
          const auto expected = labels.Expect(h, positions, /*rounds=*/true);
          const auto& of_head = sums[static_cast<size_t>(h)];
          ASSERT_NEAR(of_head[0] / expected[0], 1, 1e-5) << width << " " << heads << " " << tokens;
          // A weight in the middle between two integers may be rounded to either.
          ASSERT_NEAR(of_head[1] / expected[1], 1, 0.01) << width << " " << heads << " " << tokens;
          for (size_t i = 2; i < of_head.size(); ++i) {
            ASSERT_NEAR(of_head[i] / of_head[1], expected[i], 0.05)
                << width << " " << heads << " " << tokens;
          }
        }
      }
    }
  }
}

// What attention estimates of them depends on means of codes.
TEST(LabelSumsTest, MeanCodesAreNearThoseOfTheWeightsThemselves) {
  double squares = 0;
  int count = 0;
  for (uint32_t seed = 100; seed < 110; ++seed) {
    const Labels labels(2048, 16, 3, seed);
    const auto positions = Largest(labels, 128);
    const auto sums = labels.Sum({positions, 0});
    for (int h = 0; h < 3; ++h) {
      const auto expected = labels.Expect(h, positions, /*rounds=*/false);
      const auto& of_head = sums[static_cast<size_t>(h)];
      EXPECT_NEAR(of_head[0] / expected[0], 1, 1e-5);
      for (size_t i = 2; i < of_head.size(); ++i, ++count) {
        squares += std::pow(of_head[i] / of_head[1] - expected[i], 2);
      }
    }
  }
  // In units of a code, of which there are 16.
  EXPECT_LT(std::sqrt(squares / count), 0.02);
}

TEST(LabelSumsTest, PositionsThatAreLeftOutCountFromTheFirstToken) {
  const Labels labels(700, 16, 3, 200);
  std::vector<int32_t> positions = EveryThird(labels.tokens);
  const auto sums = labels.Sum({positions, 0});
  for (int32_t& position : positions) position += 4096;
  EXPECT_EQ(labels.Sum({positions, 4096}), sums);
}

TEST(LabelSumsTest, NothingIsLeftOfTokensThatAreAllLeftOut) {
  const Labels labels(600, 16, 2, 300);
  std::vector<int32_t> all(600);
  std::iota(all.begin(), all.end(), 0);
  for (const auto& of_head : labels.Sum({all, 0})) {
    EXPECT_GT(of_head[0], 0);
    for (size_t i = 1; i < of_head.size(); ++i) EXPECT_EQ(of_head[i], 0);
  }
}

TEST(LabelSumsTest, WeightsMayBeAsSmallAsScoresMakeThem) {
  Labels labels(600, 16, 1, 400);
  for (float& weight : labels.weights[0]) weight = 0x1p-126f;
  const auto sums = labels.Sum({{}, 0});
  for (const float sum : sums[0]) EXPECT_TRUE(std::isfinite(sum));
}

}  // namespace
}  // namespace winnow::cpu
