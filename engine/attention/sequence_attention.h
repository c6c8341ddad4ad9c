#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "engine/attention/policy.h"
#include "kernels/step_batch.h"

namespace winnow {

/// How closely selections are watched.
struct RecallOptions {
  int interval_tokens = 16;  ///< one generated token of so many is probed; 0: none
  /// Mean sampled recall below which a sequence's budget is doubled; 0: never.
  double floor = 0;
  /// Samples that the mean must have before it counts, anew after every doubling.
  int floor_samples = 16;
};

/// How one sequence attends: its policy, what it has read, and how much of the true softmax mass
/// its selections held. Depends on the sequence alone, never on what else is in a step, and what a
/// position selects by is remembered: so a sequence that is computed anew after preemption selects
/// the same tokens again.
class SequenceAttention {
 public:
  SequenceAttention(const AttentionPolicy& policy, const RecallOptions& options, int prompt_length);

  /// What the row at `position` selects: everything if it belongs to the prompt.
  Selection SelectionAt(int position) const;

  /// Which of so many layers and KV heads to probe when the token at `position` is computed, none
  /// if it has been before or if there are no layers. RecallProbe::row is left to the caller.
  std::optional<RecallProbe> ProbeAt(int position, int layers, int kv_heads) const;

  /// Takes what the probe at `position` found; true if that made the budget double from the next
  /// position on.
  bool AddProbe(int position, const ProbedMass& found);

  /// Counts what the row at `position` read, unless it has been counted before.
  void AddTraffic(int position, const KvTraffic& traffic);

  const AttentionPolicy& policy() const { return policy_; }
  const KvTraffic& traffic() const { return traffic_; }  ///< of the generated tokens
  double recall_sum() const { return recall_sum_; }
  double estimated_sum() const { return estimated_sum_; }
  int recall_samples() const { return recall_samples_; }
  /// How often the budget was doubled.
  int fallbacks() const { return static_cast<int>(boost_positions_.size()); }

 private:
  const AttentionPolicy policy_;
  const RecallOptions options_;
  const int prompt_length_;
  KvTraffic traffic_;
  int last_counted_ = -1;  ///< position
  int last_probed_ = -1;   ///< position
  double recall_sum_ = 0;
  double estimated_sum_ = 0;
  int recall_samples_ = 0;
  double recent_sum_ = 0;  ///< since the last doubling
  int recent_samples_ = 0;
  std::vector<int> boost_positions_;  ///< from each of these on, the budget is doubled once more
};

}  // namespace winnow
