#include "kernels/cpu/step_summaries.h"

#include <algorithm>
#include <cassert>

namespace winnow::cpu {
namespace {

// Adds positions [begin, begin + kSummaryPiece) but sinks to `sums`.
void AddPiece(const SummaryShape& shape, const KvView& kv, const int32_t* block_table, int kv_head,
              int sinks, int begin, SummaryScratch* scratch, float* sums) {
  const uint16_t* keys[kSummaryPiece];
  const uint8_t* labels[kSummaryPiece];
  int count = 0;
  for (int position = std::max(begin, sinks); position < begin + kSummaryPiece; ++position) {
    const int32_t id = block_table[position / kv.block_tokens];
    const int slot = position % kv.block_tokens;
    keys[count] = kv.key(id, kv_head, slot);
    labels[count] = kv.head_labels(id, kv_head) + LabelOffset(slot, kv.label_width);
    ++count;
  }
  AddToSummary(shape, {keys, labels, count}, scratch, sums);
}

uint16_t* EstimateIn(const SummaryShape& shape, float* summary) {
  return reinterpret_cast<uint16_t*>(summary + shape.sums());
}

}  // namespace

void StepSummaries::Reserve(const StepLimits& limits) {
  sequences_.reserve(static_cast<size_t>(limits.sequences));
  for (const KvShape& layer : limits.layers) {
    if (layer.summary_slots == 0) continue;
    const SummaryShape shape = layer.summary_shape();
    longer_.reserve(static_cast<size_t>((limits.rows / kSummaryPiece + limits.sequences) *
                                        layer.kv_heads * shape.estimate_halves()));
    for (Scratch& scratch : scratch_) {
      scratch.solve.Fit(shape);
      scratch.sums.reserve(static_cast<size_t>(shape.sums()));
    }
  }
}

void StepSummaries::Renew(const StepBatch& batch, const KvView& kv, int sinks) {
  shape_ = kv.summary_shape();
  sinks_ = sinks;
  sequences_.clear();
  int64_t halves = 0;
  for (int s = 0; s < batch.sequences(); ++s) {
    Sequence& sequence = sequences_.emplace_back();
    const SummarySlot slot = batch.summaries.empty() ? SummarySlot() : batch.summaries[s];
    if (slot.slot < 0) continue;
    const int first = batch.query_begin[s];
    const int end = batch.query_begin[s + 1];
    sequence.slots = kv.summary(slot.slot, 0);
    sequence.tokens = SummarisedTokens(batch.positions[first]);
    sequence.last = sequence.tokens;
    for (int row = first; row < end && !batch.selections.empty(); ++row) {
      if (batch.selections[row].kind != SelectionKind::kLabels) continue;
      sequence.last = SummarisedTokens(batch.positions[row]);
    }
    sequence.longer = halves;
    halves +=
        (sequence.last - sequence.tokens) / kSummaryPiece * kv.kv_heads * shape_.estimate_halves();
  }
  if (std::ssize(longer_) < halves) longer_.resize(static_cast<size_t>(halves));
  pool_.ParallelFor(int64_t{batch.sequences()} * kv.kv_heads, [&](int64_t i, int worker) {
    const auto sequence = static_cast<int>(i / kv.kv_heads);
    if (sequences_[sequence].slots == nullptr) return;
    RenewHead(batch, kv, sequence, static_cast<int>(i % kv.kv_heads), &scratch_[worker]);
  });
}

void StepSummaries::RenewHead(const StepBatch& batch, const KvView& kv, int sequence, int kv_head,
                              Scratch* scratch) {
  const Sequence& of = sequences_[sequence];
  const int32_t* table = batch.BlockTable(kv.group, sequence);
  float* summary = of.slots + kv_head * shape_.floats();
  scratch->solve.Fit(shape_);
  const auto add = [&](int begin, float* sums) {
    AddPiece(shape_, kv, table, kv_head, sinks_, begin, &scratch->solve, sums);
  };
  const auto solve = [&](int tokens, const float* sums, uint16_t* estimate) {
    if (tokens <= sinks_) return;
    SolveSummary(shape_, tokens - sinks_, sums, &scratch->solve, estimate);
  };
  const int held = batch.summaries[sequence].tokens;
  assert(held <= of.tokens);
  if (held == 0) std::fill_n(summary, shape_.sums(), 0.0f);
  for (int begin = held; begin < of.tokens; begin += kSummaryPiece) add(begin, summary);
  if (held < of.tokens) solve(of.tokens, summary, EstimateIn(shape_, summary));
  if (of.last == of.tokens) return;
  scratch->sums.assign(summary, summary + shape_.sums());
  const int pieces = (of.last - of.tokens) / kSummaryPiece;
  uint16_t* estimate =
      longer_.data() + of.longer + int64_t{kv_head} * pieces * shape_.estimate_halves();
  for (int begin = of.tokens; begin < of.last; begin += kSummaryPiece) {
    add(begin, scratch->sums.data());
    solve(begin + kSummaryPiece, scratch->sums.data(), estimate);
    estimate += shape_.estimate_halves();
  }
}

const uint16_t* StepSummaries::Estimate(int sequence, int position, int kv_head) const {
  const Sequence& of = sequences_[sequence];
  if (of.slots == nullptr || !HasSummary(position, sinks_)) return nullptr;
  const int tokens = SummarisedTokens(position);
  if (tokens == of.tokens) return EstimateIn(shape_, of.slots + kv_head * shape_.floats());
  const int64_t pieces = (of.last - of.tokens) / kSummaryPiece;
  const int64_t piece = (tokens - of.tokens) / kSummaryPiece - 1;
  return longer_.data() + of.longer + (kv_head * pieces + piece) * shape_.estimate_halves();
}

}  // namespace winnow::cpu
