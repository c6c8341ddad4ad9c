#include "engine/model/rope_scaling.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numbers>

#include "absl/strings/str_cat.h"

namespace winnow {
namespace {

/// The pair, as a fraction, that turns so many times within `context` positions.
double PairOfTurns(double turns, double context, double base, double pairs) {
  return pairs * std::log(context / (turns * 2 * std::numbers::pi)) / std::log(base);
}

}  // namespace

RopeTable UnscaledRope(double base, int dim) {
  RopeTable rope;
  rope.base = base;
  for (int i = 0; i < dim / 2; ++i) rope.frequencies.push_back(std::pow(base, -2.0 * i / dim));
  return rope;
}

void ScaleLinear(double factor, RopeTable& rope) {
  if (factor == 1) return;
  rope.scaling = absl::StrCat("linear, ", factor);
  for (double& frequency : rope.frequencies) frequency /= factor;
}

void ScaleLlama3(const Llama3Scaling& scaling, RopeTable& rope) {
  rope.scaling = absl::StrCat("Llama 3, ", scaling.factor);
  for (double& frequency : rope.frequencies) {
    const double turns = scaling.original_context * frequency / (2 * std::numbers::pi);
    const double kept = std::clamp(
        (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor),
        0.0, 1.0);
    frequency *= kept + (1 - kept) / scaling.factor;
  }
}

void ScaleYarn(const YarnScaling& scaling, RopeTable& rope) {
  rope.scaling = absl::StrCat("YaRN, ", scaling.factor);
  const auto pairs = static_cast<double>(rope.frequencies.size());
  double first = PairOfTurns(scaling.beta_fast, scaling.original_context, rope.base, pairs);
  double last = PairOfTurns(scaling.beta_slow, scaling.original_context, rope.base, pairs);
  if (scaling.truncate) {
    first = std::floor(first);
    last = std::ceil(last);
  }
  first = std::max(first, 0.0);
  last = std::min(last, 2 * pairs - 1);
  // The same pair at both ends: a step, as its width is what published implementations take.
  const double width = first == last ? 0.001 : last - first;
  for (size_t i = 0; i < rope.frequencies.size(); ++i) {
    const double compressed = std::clamp((static_cast<double>(i) - first) / width, 0.0, 1.0);
    rope.frequencies[i] *= 1 - compressed + compressed / scaling.factor;
  }
  rope.magnitude = scaling.magnitude > 0 ? scaling.magnitude
                   : scaling.factor > 1  ? 0.1 * std::log(scaling.factor) + 1
                                         : 1;
}

void ScaleLongrope(const LongropeScaling& scaling, RopeTable& rope) {
  const bool is_long = scaling.served_context > scaling.original_context;
  const std::vector<double>& factors = is_long ? scaling.long_factors : scaling.short_factors;
  rope.scaling = is_long ? "longrope, long factors" : "longrope, short factors";
  for (size_t i = 0; i < rope.frequencies.size(); ++i) rope.frequencies[i] /= factors[i];
  const double growth = scaling.trained_context / scaling.original_context;
  rope.magnitude = scaling.magnitude > 0 ? scaling.magnitude
                   : growth > 1
                       ? std::sqrt(1 + std::log(growth) / std::log(scaling.original_context))
                       : 1;
}

}  // namespace winnow
