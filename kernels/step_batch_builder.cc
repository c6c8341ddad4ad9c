#include "kernels/step_batch_builder.h"

#include <algorithm>
#include <numeric>

namespace winnow {

void StepBatchBuilder::Clear() {
  tokens_.clear();
  positions_.clear();
  query_begin_.clear();
  blocks_.clear();
  blocks_begin_.clear();
  logit_rows_.clear();
  selections_.clear();
  summaries_.clear();
  probes_.clear();
}

void StepBatchBuilder::BeginSequence(std::span<const std::vector<int32_t>> tables,
                                     const SummarySlot& summary) {
  summaries_.push_back(summary);
  query_begin_.push_back(static_cast<int32_t>(tokens_.size()));
  for (const std::vector<int32_t>& table : tables) {
    blocks_begin_.push_back(blocks_.size());
    blocks_.insert(blocks_.end(), table.begin(), table.end());
  }
}

void StepBatchBuilder::BeginSequence(std::span<const int32_t> blocks, const SummarySlot& summary) {
  summaries_.push_back(summary);
  query_begin_.push_back(static_cast<int32_t>(tokens_.size()));
  for (size_t group = 0; group < groups_; ++group) {
    blocks_begin_.push_back(blocks_.size());
    for (const int32_t block : blocks) {
      blocks_.push_back(block * static_cast<int32_t>(groups_) + static_cast<int32_t>(group));
    }
  }
}

int32_t StepBatchBuilder::AddRow(int32_t token, int32_t position, const Selection& selection,
                                 bool wants_logits) {
  const auto row = static_cast<int32_t>(tokens_.size());
  tokens_.push_back(token);
  positions_.push_back(position);
  selections_.push_back(selection);
  if (wants_logits) logit_rows_.push_back(row);
  return row;
}

StepBatch StepBatchBuilder::Build() {
  const size_t tables = blocks_begin_.size();
  const size_t sequences = tables / groups_;
  query_begin_.resize(sequences);  // Build may have been called before
  query_begin_.push_back(static_cast<int32_t>(tokens_.size()));
  const auto blocks_of = [&](size_t table) {
    const size_t end = table + 1 < tables ? blocks_begin_[table + 1] : blocks_.size();
    return std::span(blocks_).subspan(blocks_begin_[table], end - blocks_begin_[table]);
  };
  size_t max_blocks = 0;
  for (size_t i = 0; i < tables; ++i) max_blocks = std::max(max_blocks, blocks_of(i).size());
  block_tables_.assign(tables * max_blocks, 0);
  for (size_t i = 0; i < tables; ++i) {
    const size_t place = i % groups_ * sequences + i / groups_;  // tables come group by group
    std::ranges::copy(blocks_of(i),
                      block_tables_.begin() + static_cast<std::ptrdiff_t>(place * max_blocks));
  }

  probe_order_.resize(probes_.size());
  std::iota(probe_order_.begin(), probe_order_.end(), size_t{0});
  std::ranges::stable_sort(probe_order_, {}, [&](size_t i) { return probes_[i].layer; });
  ordered_probes_.clear();
  for (const size_t i : probe_order_) ordered_probes_.push_back(probes_[i]);

  return {.tokens = tokens_,
          .positions = positions_,
          .query_begin = query_begin_,
          .block_tables = block_tables_,
          .max_blocks = static_cast<int32_t>(max_blocks),
          .logit_rows = logit_rows_,
          .selections = selections_,
          .recall_probes = ordered_probes_,
          .summaries = summaries_};
}

}  // namespace winnow
