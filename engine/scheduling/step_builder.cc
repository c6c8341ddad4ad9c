#include "engine/scheduling/step_builder.h"

namespace winnow {

StepBatch StepBuilder::Build(std::span<const ScheduledChunk> chunks) {
  rows_.Clear();
  probed_.clear();
  for (const ScheduledChunk& chunk : chunks) {
    const SequenceAttention& attention = chunk.sequence->attention();
    rows_.BeginSequence(chunk.sequence->blocks());
    const int end = chunk.begin + chunk.count;
    for (int position = chunk.begin; position < end; ++position) {
      const int32_t row =
          rows_.AddRow(chunk.sequence->tokens()[static_cast<size_t>(position)], position,
                       attention.SelectionAt(position), chunk.wants_logits && position == end - 1);
      if (auto probe = attention.ProbeAt(position, shape_.layers, shape_.kv_heads)) {
        probe->row = row;
        rows_.AddProbe(*probe);
        probed_.push_back({chunk.sequence, position});
      }
    }
  }
  return rows_.Build();
}

}  // namespace winnow
