#pragma once

#include <cstdint>
#include <span>

#include "kernels/cpu/label_scores.h"

namespace winnow::cpu {

/// Tokens that count nothing.
struct TokensLeftOut {
  std::span<const int32_t> positions;  ///< ascending
  int first;                           ///< the position of the first token that labels have
};

/// sums[h] = {sum_t w, sum_t w code_t[0], .., sum_t w code_t[width - 1]} with w = weights[h][t],
/// for the first labels.tokens tokens but those that are left out, whose weights become 0. Means of
/// codes are by weights that are rounded to 7 bits of the largest among 512 tokens. REQUIRES:
/// weights are not negative; there is room for those of whole panels.
void SumCodes(const LabelBlocks& labels, const TokensLeftOut& left_out, float* const* weights,
              int heads, float* const* sums);

}  // namespace winnow::cpu
