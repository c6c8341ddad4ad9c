#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "engine/calibration/calibration_statistics.h"

namespace winnow {

/// How the keys of one KV head become labels: z = B k, approximate score = (A q) . z /
/// sqrt(head_dim).
struct LabelBasis {
  int head_dim = 0;
  int width = 0;
  std::vector<float> query;  ///< A, transposed: [head_dim, width]
  std::vector<float> key;    ///< B, transposed: [head_dim, width]
};

/// The best approximation of q . k by `width` products, in mean square over queries with the second
/// moment `query_moment` (Sq) and keys with the covariance `key_covariance` (Ck), both [head_dim,
/// head_dim]: with Sq^1/2 Ck^1/2 = U S V^T, A = S_r^1/2 U_r^T Sq^-1/2 and B = S_r^1/2 V_r^T
/// Ck^-1/2. The covariance and not the second moment of keys, because what all keys share moves all
/// scores alike. Eigenvalues below 1e-8 of the largest are raised to it. Columns are in order of
/// importance. REQUIRES: width <= head_dim.
LabelBasis ProjectionBasis(std::span<const double> query_moment,
                           std::span<const double> key_covariance, int head_dim, int width);

/// The channels of a KV head, most telling first; of equals the lower number first. `ranking` is
///   "qk-centred"   E[q_c^2] Var(k_c): how much channel c spreads the scores,
///   "qk"           mean |q_c k_c| (Double Sparsity, Yang et al. 2024, section 3, per KV head
///   here), "q", "k"       mean |q_c|, mean |k_c| (the same).
/// REQUIRES: `ranking` is one of these.
std::vector<int> RankChannels(const CalibrationStatistics::Head& head, const std::string& ranking);

/// The basis that picks channels: A = B = rows of the identity, the first `width` of `ranked`.
/// REQUIRES: width <= ranked.size() = head_dim.
LabelBasis ChannelBasis(std::span<const int> ranked, int width);

/// Rounds A and B to fp16, as label files keep them.
void RoundToHalf(LabelBasis& basis);

/// The values of B k that the 4-bit codes 0 and 15 stand for, per label dimension: [width] each.
struct LabelRanges {
  std::vector<float> low;
  std::vector<float> high;
};

/// The 0.2 % and 99.8 % quantiles of B k over `keys` ([samples, head_dim], fp16), interpolated
/// between samples and rounded to fp16. Where they fall together, they are moved apart.
/// REQUIRES: at least one key.
LabelRanges QuantileRanges(const LabelBasis& basis, std::span<const uint16_t> keys);

}  // namespace winnow
