#pragma once

#include <cstdint>

namespace winnow::cpu {

/// Positions that are attended to as one piece. A row's pieces are merged in order, so its result
/// is the same whether they were computed one after another (prefill) or by several workers
/// (decode). Pieces of a dense row start at multiples of this, those of a selection after as many
/// selected positions: a selection of everything gives what dense attention gives, bit by bit.
inline constexpr int kChunkTokens = 256;
/// Lists of keys are read in groups of this many.
inline constexpr int kTileKeys = 4;

/// Softmax-weighted values of one query head over some positions, not yet divided by the weights'
/// sum: out = sum_j exp(s_j - max) v_j.
struct Partial {
  float max;
  float sum;
  float* out;  ///< [head_dim]
};

/// Some positions of one KV head, in ascending order.
struct KvRows {
  /// Each key, fp16 [head_dim], is followed by its value, [head_dim]. Padded to a multiple of
  /// kTileKeys with any valid pointers.
  const uint16_t* const* keys;
  int head_dim;  ///< multiple of 16
};

/// How a query and a key make a score:
///   s = scale q . k, or soft_cap tanh(scale q . k / soft_cap) where there is a soft cap.
struct ScoreForm {
  float scale;
  float soft_cap;  ///< 0: none
};

/// The positions of a chunk that a query attends to: [begin, end), at least one.
struct Visible {
  int begin;
  int end;
};

/// Queries that share a KV head: row i attends to visible[i] of a chunk's positions. Keys before
/// the first visible position, rounded down to a multiple of kTileKeys, are not read. `scores` is
/// scratch for rows * kChunkTokens floats.
///   partials[i] = {max_j s_j, sum_j exp(s_j - max), sum_j exp(s_j - max) v_j}
void AttendChunk(const KvRows& kv, const float* const* queries, const Visible* visible, int rows,
                 const ScoreForm& form, float* scores, Partial* partials);

/// scores[i][j] = s of queries[i] and k_j for the first `count` positions; every scores[i] has room
/// for `count` rounded up to a multiple of kTileKeys.
void ScoreKeys(const KvRows& kv, const float* const* queries, int rows, int count,
               const ScoreForm& form, float* const* scores);

/// Merges `next`, a later piece, into `total`. `total` starts as {-infinity, 0, zeros}.
void MergePartial(const Partial& next, int head_dim, Partial* total);

}  // namespace winnow::cpu
