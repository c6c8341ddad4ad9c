#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "engine/model/forward_pass.h"
#include "engine/scheduling/summary_slots.h"
#include "engine/sequence/sampling.h"
#include "engine/sequence/span.h"
#include "kernels/step_batch_builder.h"
#include "kernels/token_choice.h"

namespace winnow {

/// Lays the spans of a step out as the arrays that a ForwardPass takes. Holds the arrays, reused
/// from step to step.
class StepBuilder {
 public:
  explicit StepBuilder(const AttentionShape& shape);

  /// Lays the spans out; what the other methods return is valid until the next call. Each span's
  /// rows have choices from first_logit on; those of a sequence that forks are followed by a choice
  /// for each of its forks, of the same row.
  void Build(std::span<const Span> spans);

  const StepBatch& batch() const { return batch_; }
  std::span<const TokenChoice> choices() const { return choices_; }

  /// Whose recall the i-th probe of the batch measures, and at which position.
  struct Probed {
    Sequence* sequence;
    int position;
  };
  const Probed& probed(size_t i) const { return probed_[rows_.probe_order()[i]]; }

 private:
  void AddRows(const Span& span);
  void AddChoices(const Span& span);

  const int kv_heads_;
  std::vector<int> probed_layers_;  ///< those whose rows may select
  SummarySlots summaries_;
  StepBatchBuilder rows_;
  StepBatch batch_;
  std::vector<TokenChoice> choices_;
  std::deque<TokenHistory> histories_;  ///< with drafts, that choices refer to
  int logit_rows_ = 0;
  std::vector<Probed> probed_;
};

}  // namespace winnow
