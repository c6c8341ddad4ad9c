#pragma once

#include <cstdint>
#include <vector>

namespace winnow::cpu {

/// Turns scores, in units of log 2, into weights relative to the largest: scores[t] becomes
/// 2^(scores[t] - max) to a relative error of 2e-4 for t in [0, count), at least 2^-126.
/// Returns the sum of the weights and sets *max. REQUIRES: room for `count` rounded up to a
/// multiple of 16; count >= 1.
float SoftmaxWeights2(int count, float* scores, float* max);

/// out[t] = sum_h factors[h] weights[h][t], t in [0, count); out may be weights[0]. REQUIRES: room
/// for `count` rounded up to a multiple of 16.
void WeightedSum(const float* const* weights, const float* factors, int heads, int count,
                 float* out);

/// What TopTokens needs for one call. Grows where nothing was reserved.
struct TopTokensScratch {
  std::vector<int32_t> positions;  ///< of candidates
  std::vector<uint32_t> keys;      ///< integers that are ordered as the candidates' weights
  std::vector<uint32_t> rest;      ///< of keys, among which the k-th is sought

  /// Makes room for choices among up to `count` weights.
  void Reserve(int count);
};

/// Writes the positions of the `k` largest of weights[0, count) in ascending order to `out`, each
/// plus `base`; lower positions first among equals. Exact. What is no weight, NaN or negative,
/// counts as the largest. REQUIRES: 0 <= k <= count; room to read `count` rounded up to a multiple
/// of 16.
void TopTokens(const float* weights, int count, int k, int32_t base, int32_t* out,
               TopTokensScratch* scratch);

}  // namespace winnow::cpu
