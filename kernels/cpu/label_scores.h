#pragma once

#include <cstdint>

#include "kernels/selection.h"

namespace winnow::cpu {

// Labels of a KV head lie in panels of kPanelTokens tokens, [width / 8, kPanelTokens, 4] bytes: the
// low halves of a token's four bytes are the codes of dimensions 8 p to 8 p + 3, the high halves
// those of the next four. So a vector of 32-bit lanes holds as many tokens, as the products of
// integer_dot-inl.h want them, and a token's label is written without touching another's bytes.

inline constexpr int kPanelTokens = 16;
/// How many tokens ahead of their use labels are asked for.
inline constexpr int kLabelsAhead = 8 * kPanelTokens;

/// Byte of a head's block at which the label of token `slot` begins; its pieces lie 64 bytes apart.
constexpr int64_t LabelOffset(int slot, int width) {
  return int64_t{slot / kPanelTokens} * 8 * width + 4 * (slot % kPanelTokens);
}

/// Quantises the label of one key: label[] = codes as of LabelCodec. key [head_dim], basis
/// [head_dim, width], offset [width]; `label` is at LabelOffset of the token's slot.
void WriteLabel(const float* key, const float* basis, const float* offset, int head_dim, int width,
                uint8_t* label);

/// One query head as labels want it.
struct LabelQuery {
  int8_t codes[kMaxLabelWidth];
  float scale;     ///< of a code, times what makes scores powers of two
  float bias;      ///< minus the middle of the scores that labels can have
  bool is_narrow;  ///< none lies so far from it that its weight would be lost
};

/// Projects a query: codes[i] scale ~ scale_by sum_c basis[c, i] query[c].
void ProjectQuery(const float* query, const float* basis, int head_dim, int width, float scale_by,
                  LabelQuery* out);

/// The labels of a KV head of one sequence, block after block.
struct LabelBlocks {
  const uint8_t* const* blocks;
  int block_tokens;  ///< a power of two, at least kPanelTokens
  int width;
  int tokens;  ///< of the sequence that are scored
  int listed;  ///< the same and up to kLabelsAhead more, which are scored next: only asked for
};

/// scores[h][t] = queries[h].scale sum_i queries[h].codes[i] code_t[i], for the first
/// labels.tokens tokens; every scores[h] has room for as many rounded up to kPanelTokens.
void ScoreLabels(const LabelBlocks& labels, const LabelQuery* queries, int heads,
                 float* const* scores);

/// The same as softmax weights, weights[h][t] = 2^(score + queries[h].bias) as of Exp2, and
/// their sums, without a pass to find the largest score. REQUIRES: the queries are narrow.
void WeighLabels(const LabelBlocks& labels, const LabelQuery* queries, int heads,
                 float* const* weights, float* sums);

}  // namespace winnow::cpu
