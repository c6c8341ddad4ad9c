#include "engine/eval/prediction.h"

#include <algorithm>
#include <cmath>

namespace winnow {
void SampleMean::Add(double sample) {
  ++count_;
  const double deviation = sample - mean_;
  mean_ += deviation / static_cast<double>(count_);
  squares_ += deviation * (sample - mean_);
}

double SampleMean::standard_error() const {
  if (count_ < 2) return 0;
  const auto count = static_cast<double>(count_);
  return std::sqrt(squares_ / (count - 1) / count);
}

double NegativeLogLikelihood(std::span<const float> logits, int32_t token) {
  const float largest = *std::ranges::max_element(logits);
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - largest);
  return largest + std::log(sum) - logits[static_cast<size_t>(token)];
}

double Divergence(std::span<const float> p, std::span<const float> q) {
  // Relative to the largest, so that what is summed is small where the logits are much alike.
  const float p_largest = *std::ranges::max_element(p);
  const float q_largest = *std::ranges::max_element(q);
  double p_sum = 0;
  double q_sum = 0;
  double difference = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    const float p_relative = p[i] - p_largest;
    const float q_relative = q[i] - q_largest;
    const float weight = std::exp(p_relative);
    p_sum += weight;
    q_sum += std::exp(q_relative);
    difference += double{weight} * (double{p_relative} - double{q_relative});
  }
  return difference / p_sum + std::log(q_sum / p_sum);
}

}  // namespace winnow
