#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "engine/attention/policy.h"
#include "kernels/step_batch.h"
#include "kernels/token_choice.h"

namespace winnow {

/// Where attention can be looked at.
struct AttentionShape {
  int layers = 0;
  int kv_heads = 0;
  std::vector<int> windowed = {};  ///< layers that are dense whatever rows select, ascending
  /// [groups of layers that keep the same (KvShape::group)]: positions that their rows see, 0: all.
  std::vector<int> group_windows = {0};
  /// Slots for summaries of sequences that select by labels; 0: what is not chosen is left out.
  int summary_slots = 0;

  int groups() const { return static_cast<int>(group_windows.size()); }
};

/// What the engine needs of a model: one step's rows in, logits out, keys and values kept in the
/// KV blocks that the batch names. Implemented by Transformer, and by fakes in scheduler tests.
class ForwardPass {
 public:
  virtual ~ForwardPass() = default;

  /// Computes the batch, writes its keys and values to their blocks and fills
  /// `logits` ([batch.logit_rows.size(), vocab]) and `probed` ([batch.recall_probes.size()], see
  /// Backend::MeasureRecall). An error means that the device failed.
  virtual absl::Status Forward(const StepBatch& batch, std::span<float> logits,
                               std::span<ProbedMass> probed) = 0;

  /// The same, but makes choices of the logits, as Backend::ChooseTokens does, leaves them in
  /// `tokens` ([choices.size()]) and describes them, as Backend::DescribeTokens does, in
  /// `descriptions` ([choices.size()], or empty if no choice wants that). Logits are large, and
  /// stay on the device. REQUIRES: choices are ordered by row.
  virtual absl::Status ForwardAndChoose(const StepBatch& batch,
                                        std::span<const TokenChoice> choices,
                                        std::span<int32_t> tokens,
                                        std::span<TokenDescription> descriptions,
                                        std::span<ProbedMass> probed) = 0;

  virtual int vocab() const = 0;
  virtual AttentionShape attention_shape() const = 0;

  /// What the attention of a row with this selection reads, of the `context` up to its own token.
  virtual KvTraffic Traffic(const Selection& selection, int context) const = 0;

  /// What the attention of a prompt's rows at positions from `begin` to `end` - 1 reads, which
  /// share one pass over what any of them sees. Only bytes are counted.
  virtual KvTraffic PromptTraffic(int begin, int end) const = 0;
};

}  // namespace winnow
