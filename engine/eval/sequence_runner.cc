#include "engine/eval/sequence_runner.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace winnow {

SequenceRunner::SequenceRunner(ForwardPass& model, std::vector<int32_t> blocks, int step_rows)
    : model_(model), blocks_(std::move(blocks)), step_rows_(step_rows) {}

absl::Status SequenceRunner::Compute(const SequenceRows& rows) {
  const int length = static_cast<int>(rows.tokens.size());
  const auto vocab = static_cast<size_t>(model_.vocab());
  for (int begin = rows.begin; begin < length;) {
    const int count = std::min(step_rows_, length - begin);
    const int end = begin + count;
    std::vector<int32_t> positions(static_cast<size_t>(count));
    std::iota(positions.begin(), positions.end(), begin);
    const std::vector<int32_t> query_begin = {0, count};
    const std::vector<Selection> selections(static_cast<size_t>(count), rows.selection);
    const int first_logits = std::clamp(rows.logits_from, begin, end);
    std::vector<int32_t> logit_rows(static_cast<size_t>(end - first_logits));
    std::iota(logit_rows.begin(), logit_rows.end(), first_logits - begin);

    std::vector<size_t> probed;  // this step's probes by layer, as indices of rows.probes
    for (size_t i = 0; i < rows.probes.size(); ++i) {
      if (rows.probes[i].row >= begin && rows.probes[i].row < end) probed.push_back(i);
    }
    std::ranges::stable_sort(probed, {}, [&](size_t i) { return rows.probes[i].layer; });
    std::vector<RecallProbe> probes;
    for (const size_t i : probed) {
      probes.push_back(rows.probes[i]);
      probes.back().row -= begin;
    }
    std::vector<float> recalls(probes.size());

    const StepBatch batch = {
        .tokens = rows.tokens.subspan(static_cast<size_t>(begin), static_cast<size_t>(count)),
        .positions = positions,
        .query_begin = query_begin,
        .block_tables = blocks_,
        .max_blocks = static_cast<int32_t>(blocks_.size()),
        .logit_rows = logit_rows,
        .selections = selections,
        .recall_probes = probes};
    logits_.resize(std::max(logits_.size(), logit_rows.size() * vocab));
    const std::span<float> logits = std::span(logits_).first(logit_rows.size() * vocab);
    if (absl::Status status = model_.Forward(batch, logits, recalls); !status.ok()) return status;

    for (size_t i = 0; i < probed.size(); ++i) rows.recalls[probed[i]] = recalls[i];
    for (int position = first_logits; position < end; ++position) {
      rows.visit(position,
                 logits.subspan(static_cast<size_t>(position - first_logits) * vocab, vocab));
    }
    if (observer_) observer_(count);
    begin = end;
  }
  return absl::OkStatus();
}

std::vector<int32_t> FirstBlocks(int tokens, int block_tokens) {
  std::vector<int32_t> blocks(static_cast<size_t>((tokens + block_tokens - 1) / block_tokens));
  std::iota(blocks.begin(), blocks.end(), 0);
  return blocks;
}

}  // namespace winnow
