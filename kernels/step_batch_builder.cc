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
  probes_.clear();
}

void StepBatchBuilder::BeginSequence(std::span<const int32_t> blocks) {
  query_begin_.push_back(static_cast<int32_t>(tokens_.size()));
  blocks_begin_.push_back(blocks_.size());
  blocks_.insert(blocks_.end(), blocks.begin(), blocks.end());
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
  const size_t sequences = blocks_begin_.size();
  query_begin_.resize(sequences);  // Build may have been called before
  query_begin_.push_back(static_cast<int32_t>(tokens_.size()));
  const auto blocks_of = [&](size_t s) {
    const size_t end = s + 1 < sequences ? blocks_begin_[s + 1] : blocks_.size();
    return std::span(blocks_).subspan(blocks_begin_[s], end - blocks_begin_[s]);
  };
  size_t max_blocks = 0;
  for (size_t s = 0; s < sequences; ++s) max_blocks = std::max(max_blocks, blocks_of(s).size());
  block_tables_.assign(sequences * max_blocks, 0);
  for (size_t s = 0; s < sequences; ++s) {
    std::ranges::copy(blocks_of(s),
                      block_tables_.begin() + static_cast<std::ptrdiff_t>(s * max_blocks));
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
          .recall_probes = ordered_probes_};
}

}  // namespace winnow
