#pragma once

#include <cstdint>
#include <span>

namespace winnow {

/// Mean of samples that are added one by one, and how far it may be off.
class SampleMean {
 public:
  void Add(double sample);
  double mean() const { return mean_; }  ///< 0 without samples
  /// Standard deviation of the mean, were samples independent; 0 with fewer than two.
  double standard_error() const;

 private:
  int64_t count_ = 0;
  double mean_ = 0;
  double squares_ = 0;  ///< sum of squared deviations from the mean
};

/// How a policy's predictions of tokens differ from those of dense attention to the same text.
struct DenseComparison {
  SampleMean loss;        ///< -log of the token's probability, less dense attention's
  SampleMean divergence;  ///< KL(dense || policy) of the distributions, in nats
  SampleMean agreement;   ///< 1 where the likeliest token is the same, else 0
};

/// -log softmax(logits)[token].
double NegativeLogLikelihood(std::span<const float> logits, int32_t token);

/// KL(softmax(p) || softmax(q)) in nats. REQUIRES: as many of both, at least one, all finite.
double Divergence(std::span<const float> p, std::span<const float> q);

}  // namespace winnow
