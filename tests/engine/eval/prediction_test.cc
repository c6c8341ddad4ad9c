#include "engine/eval/prediction.h"

#include <cmath>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace winnow {
namespace {

std::vector<float> Logits(size_t count, float middle, float spread, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(middle, spread);
  std::vector<float> logits(count);
  for (float& logit : logits) logit = normal(random);
  return logits;
}

std::vector<double> Probabilities(const std::vector<float>& logits) {
  std::vector<double> probabilities;
  double sum = 0;
  for (const float logit : logits) sum += std::exp(double{logit});
  for (const float logit : logits) probabilities.push_back(std::exp(double{logit}) / sum);
  return probabilities;
}

double DivergenceInDouble(const std::vector<float>& p, const std::vector<float>& q) {
  const std::vector<double> of_p = Probabilities(p);
  const std::vector<double> of_q = Probabilities(q);
  double sum = 0;
  for (size_t i = 0; i < p.size(); ++i) sum += of_p[i] * std::log(of_p[i] / of_q[i]);
  return sum;
}

TEST(PredictionTest, DivergenceIsTheDefinitionInDoublePrecision) {
  for (const float spread : {0.1f, 1.0f, 5.0f}) {
    const std::vector<float> p = Logits(5000, 3, spread, 1);
    const std::vector<float> other = Logits(5000, -40, spread, 2);
    const double far = DivergenceInDouble(p, other);
    EXPECT_NEAR(Divergence(p, other), far, 1e-6 * far + 1e-7) << spread;
    // As near as a policy that is hardly sparse comes.
    std::vector<float> like = p;
    const std::vector<float> noise = Logits(5000, 0, 0.01f, 3);
    for (size_t i = 0; i < like.size(); ++i) like[i] += noise[i];
    EXPECT_NEAR(Divergence(p, like), DivergenceInDouble(p, like), 2e-7) << spread;
  }
}

TEST(PredictionTest, DivergenceOfTheSameDistributionIsNone) {
  std::vector<float> p = Logits(1000, 0, 3, 4);
  EXPECT_EQ(Divergence(p, p), 0);
  std::vector<float> shifted = p;
  for (float& logit : shifted) logit += 64;
  EXPECT_NEAR(Divergence(p, shifted), 0, 1e-6);
}

TEST(PredictionTest, LikelihoodIsTheDefinitionInDoublePrecision) {
  const std::vector<float> logits = Logits(1000, 20, 4, 5);
  const std::vector<double> probabilities = Probabilities(logits);
  for (const int32_t token : {0, 17, 999}) {
    EXPECT_NEAR(NegativeLogLikelihood(logits, token),
                -std::log(probabilities[static_cast<size_t>(token)]), 1e-5);
  }
}

TEST(PredictionTest, MeanHasTheStandardErrorOfItsSamples) {
  const std::vector<float> samples = Logits(1000, 1000, 0.5f, 6);
  SampleMean mean;
  for (const float sample : samples) mean.Add(sample);
  double sum = 0;
  for (const float sample : samples) sum += sample;
  const double expected = sum / 1000;
  double squares = 0;
  for (const float sample : samples) squares += (sample - expected) * (sample - expected);
  EXPECT_NEAR(mean.mean(), expected, 1e-9);
  EXPECT_NEAR(mean.standard_error(), std::sqrt(squares / 999 / 1000), 1e-9);
}

TEST(PredictionTest, FewSamplesHaveNoStandardError) {
  SampleMean mean;
  EXPECT_EQ(mean.mean(), 0);
  EXPECT_EQ(mean.standard_error(), 0);
  mean.Add(3);
  EXPECT_EQ(mean.mean(), 3);
  EXPECT_EQ(mean.standard_error(), 0);
}

}  // namespace
}  // namespace winnow
