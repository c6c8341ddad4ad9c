#include "engine/eval/sequence_runner.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace winnow {

SequenceRunner::SequenceRunner(ForwardPass& model, std::vector<int32_t> blocks, int step_rows)
    : model_(model),
      blocks_(std::move(blocks)),
      step_rows_(step_rows),
      batch_(model.attention_shape().groups()) {}

absl::Status SequenceRunner::Compute(const SequenceRows& rows) {
  const int length = static_cast<int>(rows.tokens.size());
  const auto vocab = static_cast<size_t>(model_.vocab());
  for (int begin = rows.begin; begin < length;) {
    const int count = std::min(step_rows_, length - begin);
    const int end = begin + count;
    const int first_logits = std::clamp(rows.logits_from, begin, end);
    batch_.Clear();
    summary_.Begin(begin);
    batch_.BeginSequence(blocks_, summary_);
    for (int position = begin; position < end; ++position) {
      batch_.AddRow(rows.tokens[static_cast<size_t>(position)], position, rows.selection,
                    position >= first_logits);
    }
    std::vector<size_t> asked;  // this step's probes, as indices of rows.probes
    for (size_t i = 0; i < rows.probes.size(); ++i) {
      RecallProbe probe = rows.probes[i];
      if (probe.row < begin || probe.row >= end) continue;
      probe.row -= begin;
      batch_.AddProbe(probe);
      asked.push_back(i);
    }
    std::vector<ProbedMass> probed(asked.size());

    const StepBatch batch = batch_.Build();
    logits_.resize(std::max(logits_.size(), batch.logit_rows.size() * vocab));
    const std::span<float> logits = std::span(logits_).first(batch.logit_rows.size() * vocab);
    if (absl::Status status = model_.Forward(batch, logits, probed); !status.ok()) return status;
    summary_.End(begin);

    for (size_t i = 0; i < probed.size(); ++i) {
      rows.probed[asked[batch_.probe_order()[i]]] = probed[i];
    }
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
