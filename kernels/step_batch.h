#pragma once

#include <cstdint>
#include <span>

#include "kernels/selection.h"
#include "kernels/summary.h"

namespace winnow {

/// Asks what the tokens hold that one KV head of one row selects, and the others (ProbedMass).
struct RecallProbe {
  int32_t row = 0;
  int32_t layer = 0;
  int32_t kv_head = 0;
};

/// What a probe finds: shares of attention, means over the query heads of the KV head's group.
struct ProbedMass {
  /// Of the exact softmax over all that the row sees: what the selected tokens hold. 1 where the
  /// row is dense.
  float recall = 1;
  /// Of the softmax that the row's output was made of: what the estimate of the other tokens had.
  float estimated = 0;

  bool operator==(const ProbedMass&) const = default;
};

/// The rows of one engine step and where their keys and values live: a view of arrays that the
/// caller owns. Row = one token of one sequence that is computed in this step; the rows of a
/// sequence are consecutive, at consecutive positions. A decoding sequence has one row, and one for
/// each guess of the tokens to come; a piece of a prompt has many.
struct StepBatch {
  std::span<const int32_t> tokens;     ///< [rows] token ids
  std::span<const int32_t> positions;  ///< [rows] position of the row in its sequence, from 0
  std::span<const int32_t>
      query_begin;  ///< [sequences + 1] rows of sequence s: from [s] to [s + 1]
  /// [groups, sequences, max_blocks] KV block ids of each sequence, in the order of positions: one
  /// table for each group of layers that keep the same (KvShape::group). Entries past those that
  /// the sequence's last row needs are not read, nor those behind what a group's layers see.
  std::span<const int32_t> block_tables;
  int32_t max_blocks = 0;
  /// Rows whose logits are wanted, ascending.
  std::span<const int32_t> logit_rows;
  std::span<const Selection> selections = {};       ///< [rows], or empty: all dense
  std::span<const RecallProbe> recall_probes = {};  ///< ordered by layer
  std::span<const SummarySlot> summaries = {};      ///< [sequences], or empty: there are none

  int rows() const { return static_cast<int>(tokens.size()); }
  int sequences() const { return static_cast<int>(query_begin.size()) - 1; }
  /// [max_blocks] of one sequence, for the layers of a group.
  const int32_t* BlockTable(int group, int sequence) const {
    return block_tables.data() + (int64_t{group} * sequences() + sequence) * max_blocks;
  }
};

}  // namespace winnow
