#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/step_batch.h"

namespace winnow {

/// Lays rows out as the arrays of a StepBatch, sequence by sequence. Holds the arrays, which are
/// reused from step to step.
class StepBatchBuilder {
 public:
  /// For models whose layers form so many groups (KvShape::group).
  explicit StepBatchBuilder(int groups = 1) : groups_(static_cast<size_t>(groups)) {}

  /// Forgets all rows.
  void Clear();

  /// Begins the rows of the next sequence, whose keys and values live in the blocks of these tables
  /// [groups], each in the order of positions, and which may have a summary.
  void BeginSequence(std::span<const std::vector<int32_t>> tables, const SummarySlot& summary = {});

  /// The same for sequences of which all layers keep everything: `blocks` count places in which
  /// each group has a block, so that `block` stands for the group's block groups * block + group.
  void BeginSequence(std::span<const int32_t> blocks, const SummarySlot& summary = {});

  /// Adds a row to the sequence that was begun last, at the position after that of its row before.
  /// Returns which row of the step it is.
  int32_t AddRow(int32_t token, int32_t position, const Selection& selection, bool wants_logits);

  /// Asks for a recall. Probes may come in any order.
  void AddProbe(const RecallProbe& probe) { probes_.push_back(probe); }

  /// Valid until the next call of any other method.
  StepBatch Build();

  /// Which probe, counted in the order of AddProbe, the i-th of the batch is. Valid after Build.
  std::span<const size_t> probe_order() const { return probe_order_; }

 private:
  size_t groups_;
  std::vector<int32_t> tokens_;
  std::vector<int32_t> positions_;
  std::vector<int32_t> query_begin_;
  std::vector<int32_t> blocks_;       ///< of all sequences' tables, one after another
  std::vector<size_t> blocks_begin_;  ///< [sequences, groups]: in blocks_
  std::vector<int32_t> block_tables_;
  std::vector<int32_t> logit_rows_;
  std::vector<Selection> selections_;
  std::vector<SummarySlot> summaries_;
  std::vector<RecallProbe> probes_;
  std::vector<size_t> probe_order_;
  std::vector<RecallProbe> ordered_probes_;
};

}  // namespace winnow
