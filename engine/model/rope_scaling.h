#pragma once

#include <string>
#include <vector>

namespace winnow {

/// How heads are rotated: what a model's files say of RoPE comes down to this.
struct RopeTable {
  std::vector<double> frequencies;  ///< of each rotated pair, radians per position: [dim / 2]
  double magnitude = 1;             ///< of what has been rotated, by what it was
  double base = 0;                  ///< what frequencies are powers of, before scaling
  std::string scaling = "none";     ///< for people: the kind of scaling and its factor
};

/// Unscaled: frequency i is base^(-2i / dim). REQUIRES: base > 0, dim even and positive.
RopeTable UnscaledRope(double base, int dim);

/// Linear scaling: positions are compressed by `factor` > 0; 1 leaves them.
void ScaleLinear(double factor, RopeTable& rope);

/// Llama 3's scaling: pairs that turn less than `low_freq_factor` times within the original context
/// are compressed by `factor`, those that turn more than `high_freq_factor` times stay, and between
/// them it goes over evenly. REQUIRES: all positive, low_freq_factor < high_freq_factor.
struct Llama3Scaling {
  double factor = 8;
  double low_freq_factor = 1;
  double high_freq_factor = 4;
  double original_context = 8192;
};
void ScaleLlama3(const Llama3Scaling& scaling, RopeTable& rope);

/// YaRN (Peng et al. 2023, arXiv:2309.00071, section 3.2): pairs that turn less than `beta_slow`
/// times within the original context are compressed by `factor`, those that turn more than
/// `beta_fast` times stay, and between them it goes over evenly by the pair's number. Section 3.4
/// has the magnitude, 0.1 ln(factor) + 1. REQUIRES: all positive.
struct YarnScaling {
  double factor = 1;
  double original_context = 0;
  double beta_fast = 32;
  double beta_slow = 1;
  bool truncate = true;  ///< the ends of the transition are whole pairs
  double magnitude = 0;  ///< 0: as the factor says
};
void ScaleYarn(const YarnScaling& scaling, RopeTable& rope);

/// Longrope (Ding et al. 2024, arXiv:2402.13753): a factor found by search for each pair, and a
/// magnitude of sqrt(1 + ln(trained / original) / ln(original)). The long factors are taken where
/// sequences may grow longer than the original context, whatever a prompt's length: keys that are
/// kept were rotated by the same factors as queries.
/// REQUIRES: all positive, original_context above 1; as many factors of each kind as pairs.
struct LongropeScaling {
  std::vector<double> short_factors;
  std::vector<double> long_factors;
  double original_context = 0;
  double trained_context = 0;
  double served_context = 0;  ///< the longest that sequences may have
  double magnitude = 0;       ///< 0: as the contexts say
};
void ScaleLongrope(const LongropeScaling& scaling, RopeTable& rope);

}  // namespace winnow
