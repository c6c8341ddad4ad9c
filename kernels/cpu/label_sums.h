#pragma once

#include <cstdint>
#include <span>

#include "kernels/cpu/label_scores.h"
#include "kernels/summary.h"

namespace winnow::cpu {

/// Tokens that count nothing.
struct TokensLeftOut {
  std::span<const int32_t> positions;  ///< ascending
  int first;                           ///< the position of the first token that labels have
};

/// sums[h] = {w of the tokens that are left out, sum_t w, sum_t w code_t[0], ..,
/// sum_t w code_t[width - 1]} with w = weights[h][t] and the sampled (IsSampled) of the first
/// labels.tokens tokens t that are not left out, rounded to 7 bits of the largest of them. Weights
/// that are left out become 0. REQUIRES: left_out.first is a multiple of kSampleStride; weights are
/// not negative; there is room for those of whole panels.
void SumCodes(const LabelBlocks& labels, const TokensLeftOut& left_out, float* const* weights,
              int heads, float* const* sums);

}  // namespace winnow::cpu
