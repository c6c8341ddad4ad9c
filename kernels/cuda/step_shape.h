#pragma once

#include <compare>
#include <cstdint>

#include "kernels/selection.h"

namespace winnow::cuda {

/// What decides how a step is computed, apart from the numbers in its arrays: steps of the same
/// shape are the same launches on the same memory. What grows step by step, or is chosen by
/// requests, is rounded up, so that there are few shapes.
struct StepShape {
  int rows = 0;
  int decode_rows = 0;
  int tiles = 0;
  int sequences = 0;
  int max_blocks = 0;   ///< of a block table as it lies in device memory
  int max_context = 0;  ///< no decoding row has a longer context
  /// Of each kind: tokens that no decoding row's budget exceeds where it is not spread over heads;
  /// 0 if no row is of the kind.
  int32_t labels = 0;
  int32_t window = 0;
  int32_t scores = 0;
  int renewals = 0;        ///< sequences whose summaries change, at most
  bool estimates = false;  ///< some decoding row has a summary to estimate by

  auto operator<=>(const StepShape&) const = default;

  /// Takes a decoding row into account.
  void AddDecodeRow(const Selection& selection, int context);

  /// Rounds up, once all rows are in; `blocks` is the longest block table of the batch.
  void Round(int blocks);

  /// What no KV head that selects attends to more of, in this layer; 0 if none selects.
  int32_t MaxSelected(const LayerAttention& attention, int kv_heads) const;
};

/// Sizes as Round leaves them: up by at most an eighth, but for small ones.
int RoundContext(int tokens);
int RoundBlocks(int blocks);
/// To a power of two: most steps of few sequences change no summary or one.
int RoundRenewals(int renewals);

}  // namespace winnow::cuda
