#pragma once

#include <cstdint>

namespace winnow::cpu {

/// Positions that are attended to as one piece. Pieces start at multiples of this, and a row's
/// result is merged from its pieces in order: so it is the same whether the pieces were computed
/// one after another (prefill) or by several workers (decode).
inline constexpr int kChunkTokens = 256;

/// Softmax-weighted values of one query head over some positions, not yet divided by the weights'
/// sum: out = sum_j exp(s_j - max) v_j.
struct Partial {
  float max;
  float sum;
  float* out;  ///< [head_dim]
};

/// One piece of one KV head: positions [first, first + kChunkTokens).
struct AttentionChunk {
  const uint16_t* const* keys;    ///< per block of the chunk: fp16 [block_tokens, head_dim]
  const uint16_t* const* values;  ///< likewise
  int block_tokens;               ///< divides kChunkTokens
  int head_dim;                   ///< multiple of 16
};

/// Queries that share a KV head: row i attends to the first counts[i] positions of the chunk
/// (1 to kChunkTokens). `scores` is scratch for rows * kChunkTokens floats.
///   s_j = scale q . k_j;  partials[i] = {max_j s_j, sum_j exp(s_j - max), sum_j exp(s_j - max)
///   v_j}
void AttendChunk(const AttentionChunk& chunk, const float* const* queries, const int* counts,
                 int rows, float scale, float* scores, Partial* partials);

/// Merges `next`, a later piece, into `total`. `total` starts as {-infinity, 0, zeros}.
void MergePartial(const Partial& next, int head_dim, Partial* total);

}  // namespace winnow::cpu
