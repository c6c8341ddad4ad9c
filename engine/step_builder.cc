#include "engine/step_builder.h"

#include <algorithm>

namespace winnow {

StepBatch StepBuilder::Build(std::span<const ScheduledChunk> chunks) {
  size_t max_blocks = 0;
  for (const ScheduledChunk& chunk : chunks) {
    max_blocks = std::max(max_blocks, chunk.sequence->blocks().size());
  }
  tokens_.clear();
  positions_.clear();
  query_begin_.assign(1, 0);
  block_tables_.assign(chunks.size() * max_blocks, 0);
  logit_rows_.clear();
  selections_.clear();
  probed_.clear();
  probes_.clear();
  auto table = block_tables_.begin();
  for (const ScheduledChunk& chunk : chunks) {
    const SequenceAttention& attention = chunk.sequence->attention();
    for (int position = chunk.begin; position < chunk.begin + chunk.count; ++position) {
      if (auto probe = attention.ProbeAt(position, shape_.layers, shape_.kv_heads)) {
        probe->row = static_cast<int32_t>(tokens_.size());
        probed_.push_back({*probe, chunk.sequence, position});
      }
      selections_.push_back(attention.SelectionAt(position));
      tokens_.push_back(chunk.sequence->tokens()[static_cast<size_t>(position)]);
      positions_.push_back(position);
    }
    query_begin_.push_back(static_cast<int32_t>(tokens_.size()));
    std::ranges::copy(chunk.sequence->blocks(), table);
    table += static_cast<std::ptrdiff_t>(max_blocks);
    if (chunk.wants_logits) logit_rows_.push_back(static_cast<int32_t>(tokens_.size()) - 1);
  }
  std::ranges::stable_sort(probed_, {}, [](const Probed& probed) { return probed.probe.layer; });
  for (const Probed& probed : probed_) probes_.push_back(probed.probe);
  return {.tokens = tokens_,
          .positions = positions_,
          .query_begin = query_begin_,
          .block_tables = block_tables_,
          .max_blocks = static_cast<int32_t>(max_blocks),
          .logit_rows = logit_rows_,
          .selections = selections_,
          .recall_probes = probes_};
}

}  // namespace winnow
