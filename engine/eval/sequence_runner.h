#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "engine/model/forward_pass.h"
#include "kernels/step_batch_builder.h"

namespace winnow {

/// Told of every step's rows once they are computed.
using RowsObserver = std::function<void(int rows)>;

/// Rows of one sequence that are to be computed in order.
struct SequenceRows {
  std::span<const int32_t> tokens;  ///< of the sequence, from its start to the last row
  /// Position of the first row. Those before it have been computed by earlier calls; keys and
  /// values from here on are overwritten.
  int begin = 0;
  Selection selection = {};  ///< of every row
  /// Rows at positions from here on have their logits computed, and `visit` called with them.
  int logits_from = std::numeric_limits<int>::max();
  std::function<void(int position, std::span<const float> logits)> visit = {};
  /// What to measure, in any order; RecallProbe::row is a position.
  std::span<const RecallProbe> probes = {};
  std::span<ProbedMass> probed = {};  ///< [probes], in their order
};

/// Computes one sequence through the decode path, many rows a step. Each row selects for itself,
/// and on backends with row invariance its numbers are those of a decode step of its own: so the
/// accuracy of decoding a known text is measured at the speed of prefill.
class SequenceRunner {
 public:
  /// `blocks` hold the sequence's keys and values, `step_rows` is the most that a step computes.
  /// REQUIRES: `model` outlives this object.
  SequenceRunner(ForwardPass& model, std::vector<int32_t> blocks, int step_rows);

  /// Sets who is told of progress.
  void set_observer(RowsObserver observer) { observer_ = std::move(observer); }

  /// Computes rows.begin to rows.tokens.size() - 1. REQUIRES: the blocks hold so many tokens. An
  /// error means that the device failed.
  absl::Status Compute(const SequenceRows& rows);

 private:
  ForwardPass& model_;
  std::vector<int32_t> blocks_;
  int step_rows_;
  RowsObserver observer_;
  StepBatchBuilder batch_;
  SummarySlot summary_ = {.slot = 0};  ///< of pools that keep one
  std::vector<float> logits_;          ///< [logit rows of a step, vocab]
};

/// The numbers 0 to `tokens` / `block_tokens`, rounded up: blocks for one sequence that has a pool
/// for itself.
std::vector<int32_t> FirstBlocks(int tokens, int block_tokens);

}  // namespace winnow
