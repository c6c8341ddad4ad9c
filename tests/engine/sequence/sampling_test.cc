#include "engine/sequence/sampling.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <vector>

#include "kernels/cpu/token_chooser.h"
#include "kernels/logits.h"

namespace winnow {
namespace {

using ::testing::ElementsAre;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

SamplingParams With(void (*set)(SamplingParams&)) {
  SamplingParams params;
  set(params);
  return params;
}

/// The documented order in double precision with full sorts: the probability of each token.
/// REQUIRES: temperature > 0.
std::vector<double> ReferenceProbabilities(const std::vector<float>& logits,
                                           const SamplingParams& params,
                                           const std::vector<int32_t>& prompt,
                                           const std::vector<int32_t>& output) {
  std::vector<double> values(logits.begin(), logits.end());
  for (const auto& [token, bias] : params.logit_bias) values[static_cast<size_t>(token)] += bias;
  for (size_t token = 0; token < values.size(); ++token) {
    const auto id = static_cast<int32_t>(token);
    const auto in_prompt = std::count(prompt.begin(), prompt.end(), id);
    const auto in_output = std::count(output.begin(), output.end(), id);
    double& value = values[token];
    if (in_prompt + in_output > 0) {
      value = value > 0 ? value / params.repetition_penalty : value * params.repetition_penalty;
    }
    if (in_output > 0) value -= params.presence_penalty;
    value -= params.frequency_penalty * static_cast<double>(in_output);
  }
  for (double& value : values) value /= params.temperature;

  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return values[a] > values[b]; });
  if (params.top_k > 0 && static_cast<size_t>(params.top_k) < order.size()) {
    order.resize(static_cast<size_t>(params.top_k));
  }
  std::vector<double> probabilities(values.size(), 0.0);
  const auto normalise = [&] {
    double sum = 0;
    for (const size_t token : order) sum += std::exp(values[token] - values[order[0]]);
    std::ranges::fill(probabilities, 0.0);
    for (const size_t token : order) {
      probabilities[token] = std::exp(values[token] - values[order[0]]) / sum;
    }
  };
  normalise();
  if (params.top_p < 1) {
    double reached = 0;
    size_t count = 0;
    while (count < order.size() && reached < params.top_p) reached += probabilities[order[count++]];
    order.resize(count);
    normalise();
  }
  if (params.min_p > 0) {
    const double largest = probabilities[order[0]];
    std::erase_if(order,
                  [&](size_t token) { return probabilities[token] < params.min_p * largest; });
    normalise();
  }
  return probabilities;
}

int32_t Choose(const std::vector<float>& logits, const SamplingParams& params,
               const TokenHistory& history, double uniform) {
  return cpu::TokenChooser().Choose(logits, MakeChoice(0, params, history, uniform));
}

/// The share of each token when `uniform` runs through a fine grid over [0, 1).
std::vector<double> Shares(const std::vector<float>& logits, const SamplingParams& params,
                           const TokenHistory& history, int grid) {
  std::vector<double> shares(logits.size(), 0.0);
  for (int i = 0; i < grid; ++i) {
    const int32_t token = Choose(logits, params, history, (i + 0.5) / grid);
    EXPECT_GE(token, 0);
    if (token < 0) break;
    shares[static_cast<size_t>(token)] += 1.0 / grid;
  }
  return shares;
}

std::vector<float> RandomLogits(std::mt19937& random, size_t vocab, float spread) {
  std::normal_distribution<float> normal(0, spread);
  std::vector<float> logits(vocab);
  for (float& logit : logits) logit = normal(random);
  return logits;
}

void ExpectSharesMatchReference(const std::vector<float>& logits, const SamplingParams& params,
                                const std::vector<int32_t>& prompt,
                                const std::vector<int32_t>& output) {
  constexpr int kGrid = 4000;
  TokenHistory history(params, prompt);
  for (const int32_t token : output) history.Append(token);
  const std::vector<double> expected = ReferenceProbabilities(logits, params, prompt, output);
  const std::vector<double> actual = Shares(logits, params, history, kGrid);
  for (size_t token = 0; token < logits.size(); ++token) {
    // A token owns one interval of [0, 1); a grid point more or less may fall into it.
    ASSERT_NEAR(actual[token], expected[token], 1.5 / kGrid) << "token " << token;
    ASSERT_TRUE(expected[token] > 0 || actual[token] == 0) << "token " << token;
  }
}

TEST(SamplerTest, EachParameterAloneGivesTheReferenceDistribution) {
  std::mt19937 random(7);
  const std::vector<float> logits = RandomLogits(random, 50, 2);
  const std::vector<int32_t> prompt = {1, 2, 3, 3, 9};
  const std::vector<int32_t> output = {3, 5, 5, 5, 20};
  const std::vector<std::pair<const char*, SamplingParams>> cases = {
      {"plain", SamplingParams()},
      {"bias", With([](SamplingParams& p) {
         p.logit_bias = {{4, 3.0f}, {5, -2.0f}, {6, -kInfinity}, {4, 0.5f}};
       })},
      {"repetition up", With([](SamplingParams& p) { p.repetition_penalty = 1.7f; })},
      {"repetition down", With([](SamplingParams& p) { p.repetition_penalty = 0.6f; })},
      {"presence", With([](SamplingParams& p) { p.presence_penalty = 1.5f; })},
      {"frequency", With([](SamplingParams& p) { p.frequency_penalty = 0.8f; })},
      {"negative presence", With([](SamplingParams& p) { p.presence_penalty = -1.0f; })},
      {"cool", With([](SamplingParams& p) { p.temperature = 0.4f; })},
      {"hot", With([](SamplingParams& p) { p.temperature = 2.5f; })},
      {"top_k", With([](SamplingParams& p) { p.top_k = 5; })},
      {"top_k of one", With([](SamplingParams& p) { p.top_k = 1; })},
      {"top_k above the vocabulary", With([](SamplingParams& p) { p.top_k = 500; })},
      {"top_p", With([](SamplingParams& p) { p.top_p = 0.7f; })},
      {"tiny top_p", With([](SamplingParams& p) { p.top_p = 0.001f; })},
      {"min_p", With([](SamplingParams& p) { p.min_p = 0.2f; })},
  };
  for (const auto& [name, params] : cases) {
    SCOPED_TRACE(name);
    ExpectSharesMatchReference(logits, params, prompt, output);
  }
}

TEST(SamplerTest, RandomCombinationsGiveTheReferenceDistribution) {
  for (unsigned seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 random(seed);
    const auto real = [&](float low, float high) {
      return std::uniform_real_distribution<float>(low, high)(random);
    };
    const auto half = [&] { return random() % 2 == 0; };
    const auto vocab = static_cast<size_t>(2 + random() % 60);
    const std::vector<float> logits = RandomLogits(random, vocab, real(0.5f, 4));
    SamplingParams params;
    if (half()) params.logit_bias = {{0, real(-5, 5)}, {1, -kInfinity}};
    if (half()) params.repetition_penalty = real(0.5f, 2);
    if (half()) params.presence_penalty = real(-2, 2);
    if (half()) params.frequency_penalty = real(-2, 2);
    if (half()) params.temperature = real(0.2f, 2);
    if (half()) params.top_k = static_cast<int>(1 + random() % 70);
    if (half()) params.top_p = real(0.05f, 0.999f);
    if (half()) params.min_p = real(0, 0.6f);
    std::vector<int32_t> prompt(random() % 8);
    std::vector<int32_t> output(random() % 8);
    for (int32_t& token : prompt) token = static_cast<int32_t>(random() % vocab);
    for (int32_t& token : output) token = static_cast<int32_t>(random() % vocab);
    ExpectSharesMatchReference(logits, params, prompt, output);
  }
}

TEST(SamplerTest, FiltersKeepTheLowestIdsOfEqualTokens) {
  const std::vector<float> logits = {0, 1, 1, 0, 1, 1};
  const auto kept = [&](const SamplingParams& params) {
    const std::vector<double> shares = Shares(logits, params, TokenHistory(params, {}), 1000);
    std::vector<int> tokens;
    for (size_t i = 0; i < shares.size(); ++i) {
      if (shares[i] > 0) tokens.push_back(static_cast<int>(i));
    }
    return tokens;
  };
  EXPECT_THAT(kept(With([](SamplingParams& p) { p.top_k = 2; })), ElementsAre(1, 2));
  EXPECT_THAT(kept(With([](SamplingParams& p) { p.top_k = 5; })), ElementsAre(0, 1, 2, 4, 5));
  // Four tokens of 0.211 and two of 0.078.
  EXPECT_THAT(kept(With([](SamplingParams& p) { p.top_p = 0.4f; })), ElementsAre(1, 2));
  EXPECT_THAT(kept(With([](SamplingParams& p) { p.top_p = 0.5f; })), ElementsAre(1, 2, 4));
  EXPECT_THAT(kept(With([](SamplingParams& p) { p.top_p = 0.9f; })), ElementsAre(0, 1, 2, 4, 5));
}

TEST(SamplerTest, GreedyTakesTheLargestLogitAndTheLowestIdAmongEquals) {
  const SamplingParams params = With([](SamplingParams& p) { p.temperature = 0; });
  const TokenHistory history(params, {});
  EXPECT_EQ(Choose({-3, 2, 5, 5, 1}, params, history, 0.99), 2);
  EXPECT_EQ(Choose({-kInfinity, -7}, params, history, 0), 1);
}

TEST(SamplerTest, GreedyHeedsBiasAndPenalties) {
  SamplingParams params = With([](SamplingParams& p) {
    p.logit_bias = {{0, -kInfinity}};
    p.frequency_penalty = 1;
    p.temperature = 0;
  });
  TokenHistory history(params, {});
  history.Append(1);
  history.Append(1);
  EXPECT_EQ(Choose({9, 4, 2.5f, 1}, params, history, 0), 2);
}

TEST(SamplerTest, TinyTemperatureIsGreedy) {
  std::mt19937 random(3);
  const std::vector<float> logits = RandomLogits(random, 100, 1);
  const auto best = std::ranges::max_element(logits) - logits.begin();
  for (const float temperature : {1e-4f, 1e-20f, 1e-44f}) {
    SamplingParams params;
    params.temperature = temperature;
    const TokenHistory history(params, {});
    for (const double uniform : {0.0, 0.5, 0.999999}) {
      EXPECT_EQ(Choose(logits, params, history, uniform), best);
    }
  }
}

TEST(SamplerTest, NeverChoosesABannedTokenAtTheEdgesOfTheDraw) {
  const SamplingParams params = With([](SamplingParams& p) {
    p.logit_bias = {{0, -kInfinity}, {3, -kInfinity}};
  });
  const TokenHistory history(params, {});
  const std::vector<float> logits = {1, 1, 1, 1};
  EXPECT_EQ(Choose(logits, params, history, 0), 1);
  EXPECT_EQ(Choose(logits, params, history, std::nextafter(1.0, 0.0)), 2);
}

TEST(SamplerTest, LogitsThatAreNoNumbersAreAnError) {
  for (const float temperature : {0.0f, 1.0f}) {
    SamplingParams params;
    params.temperature = temperature;
    const TokenHistory history(params, {});
    EXPECT_EQ(Choose({1, NAN, 2}, params, history, 0), kLogitsNotFinite);
    EXPECT_EQ(Choose({1, kInfinity}, params, history, 0), kLogitsNotFinite);
    EXPECT_EQ(Choose({-kInfinity, -kInfinity}, params, history, 0), kLogitsNotFinite);
  }
}

TEST(SamplerTest, BanningEveryTokenIsAnError) {
  const SamplingParams params = With([](SamplingParams& p) {
    p.logit_bias = {{0, -kInfinity}, {1, -kInfinity}};
  });
  EXPECT_EQ(Choose({1, 2}, params, TokenHistory(params, {}), 0), kNoTokenLeft);
  EXPECT_EQ(NoChoice(kNoTokenLeft).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(NoChoice(kLogitsNotFinite).code(), absl::StatusCode::kInternal);
}

TEST(SamplerTest, LogprobsAreThoseOfTheUnmodifiedLogits) {
  std::mt19937 random(5);
  const std::vector<float> logits = RandomLogits(random, 50'000, 3);
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit));
  const auto exact = [&](int32_t token) {
    return static_cast<double>(logits[static_cast<size_t>(token)]) - std::log(sum);
  };
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, std::greater<>(),
                           [&](int32_t token) { return logits[static_cast<size_t>(token)]; });

  const TokenDescription described = DescribeToken(logits, 123, 20);
  EXPECT_NEAR(described.logprob, exact(123), 1e-5);
  ASSERT_EQ(described.alternatives.size(), 20u);
  for (size_t i = 0; i < 20; ++i) {
    EXPECT_EQ(described.alternatives[i].token, order[i]);
    EXPECT_NEAR(described.alternatives[i].logprob, exact(order[i]), 1e-5);
  }
}

TEST(SamplerTest, TopLogprobsNameTheLowestIdsFirstAmongEqualsAndStopAtTheVocabulary) {
  const TokenDescription described = DescribeToken(std::vector<float>{0, 1, 1}, 0, 20);
  std::vector<int32_t> tokens;
  for (const TokenLogprob& top : described.alternatives) tokens.push_back(top.token);
  EXPECT_THAT(tokens, ElementsAre(1, 2, 0));
}

/// Sum of (observed - expected)² / expected over equally likely cells.
double ChiSquare(const std::vector<int>& counts) {
  const double expected =
      std::accumulate(counts.begin(), counts.end(), 0.0) / static_cast<double>(counts.size());
  double sum = 0;
  for (const int count : counts) sum += (count - expected) * (count - expected) / expected;
  return sum;
}

TEST(UniformAtTest, IsUniformAlongPositionsIndicesAndSeeds) {
  constexpr int kDraws = 100'000;
  // 99 degrees of freedom: 149 is exceeded once in a thousand times, 60 undercut as rarely.
  for (int along = 0; along < 3; ++along) {
    std::vector<int> counts(100, 0);
    for (int i = 0; i < kDraws; ++i) {
      const double u = along == 0   ? UniformAt(42, 0, i)
                       : along == 1 ? UniformAt(42, i, 0)
                                    : UniformAt(static_cast<uint64_t>(i), 0, 0);
      ASSERT_GE(u, 0);
      ASSERT_LT(u, 1);
      ++counts[static_cast<size_t>(u * 100)];
    }
    EXPECT_LT(ChiSquare(counts), 149) << "along " << along;
    EXPECT_GT(ChiSquare(counts), 60) << "along " << along;
  }
}

TEST(UniformAtTest, NeighboursAreIndependent) {
  constexpr int kDraws = 100'000;
  std::vector<int> positions(100, 0);
  std::vector<int> indices(100, 0);
  std::vector<int> seeds(100, 0);
  for (int i = 0; i < kDraws; ++i) {
    const auto cell = [](double a, double b) {
      return static_cast<size_t>(a * 10) * 10 + static_cast<size_t>(b * 10);
    };
    const double u = UniformAt(7, 0, i);
    ++positions[cell(u, UniformAt(7, 0, i + 1))];
    ++indices[cell(u, UniformAt(7, 1, i))];
    ++seeds[cell(u, UniformAt(8, 0, i))];
  }
  EXPECT_LT(ChiSquare(positions), 149);
  EXPECT_LT(ChiSquare(indices), 149);
  EXPECT_LT(ChiSquare(seeds), 149);
}

TEST(SamplerTest, TokensDrawnAlongASequenceFollowTheDistribution) {
  constexpr int kDraws = 200'000;
  std::mt19937 random(11);
  const std::vector<float> logits = RandomLogits(random, 20, 1);
  const SamplingParams params = With([](SamplingParams& p) {
    p.temperature = 0.8f;
    p.top_k = 10;
  });
  const TokenHistory history(params, {});
  const std::vector<double> expected = ReferenceProbabilities(logits, params, {}, {});
  std::vector<int> counts(logits.size(), 0);
  for (int i = 0; i < kDraws; ++i) {
    ++counts[static_cast<size_t>(Choose(logits, params, history, UniformAt(1234, 2, i)))];
  }
  double chi_square = 0;
  for (size_t token = 0; token < logits.size(); ++token) {
    const double mean = expected[token] * kDraws;
    if (mean == 0) {
      EXPECT_EQ(counts[token], 0);
    } else {
      chi_square += (counts[token] - mean) * (counts[token] - mean) / mean;
    }
  }
  EXPECT_LT(chi_square, 27.9);  // 9 degrees of freedom: exceeded once in a thousand times
}

}  // namespace
}  // namespace winnow
