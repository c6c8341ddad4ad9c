#include "engine/scheduling/step_builder.h"

#include <algorithm>
#include <cstddef>

#include "engine/sequence/sequence.h"

namespace winnow {

StepBuilder::StepBuilder(const AttentionShape& shape)
    : kv_heads_(shape.kv_heads), summaries_(shape.summary_slots), rows_(shape.groups()) {
  for (int layer = 0; layer < shape.layers; ++layer) {
    if (!std::ranges::binary_search(shape.windowed, layer)) probed_layers_.push_back(layer);
  }
}

void StepBuilder::Build(std::span<const Span> spans) {
  rows_.Clear();
  choices_.clear();
  histories_.clear();
  logit_rows_ = 0;
  probed_.clear();
  for (const Span& span : spans) {
    AddRows(span);
    AddChoices(span);
  }
  batch_ = rows_.Build();
}

void StepBuilder::AddRows(const Span& span) {
  const SequenceAttention& attention = span.sequence->attention();
  const bool by_labels = attention.policy().kind == SelectionKind::kLabels;
  rows_.BeginSequence(span.sequence->kv().groups(),
                      by_labels ? summaries_.Take(*span.sequence, span.begin) : SummarySlot());
  for (int i = 0; i < span.rows(); ++i) {
    const int position = span.begin + i;
    const int32_t row = rows_.AddRow(span.tokens[static_cast<size_t>(i)], position, span.selection,
                                     i >= span.first_logit);
    if (position >= span.sequence->length()) continue;  // a draft
    if (auto probe =
            attention.ProbeAt(position, static_cast<int>(probed_layers_.size()), kv_heads_)) {
      probe->row = row;
      probe->layer = probed_layers_[static_cast<size_t>(probe->layer)];
      rows_.AddProbe(*probe);
      probed_.push_back({span.sequence, position});
    }
  }
}

void StepBuilder::AddChoices(const Span& span) {
  const auto choose = [&](const Sequence& sequence, const TokenHistory& history, int drafts) {
    choices_.push_back(
        MakeChoice(logit_rows_, sequence.request().sampling, history, sequence.Uniform(drafts)));
    if (sequence.request().logprobs) choices_.back().alternatives = sequence.request().top_logprobs;
  };
  const Sequence& sequence = *span.sequence;
  const TokenHistory* history = &sequence.history();
  int drafts = 0;  // that `history` counts
  for (int position = span.begin + span.first_logit; position < span.end(); ++position) {
    for (; drafts < position + 1 - sequence.length(); ++drafts) {
      histories_.push_back(*history);
      histories_.back().Append(sequence.drafts()[static_cast<size_t>(drafts)]);
      history = &histories_.back();
    }
    choose(sequence, *history, drafts);
    for (const Sequence* fork : sequence.forks()) choose(*fork, fork->history(), 0);
    ++logit_rows_;
  }
}

}  // namespace winnow
