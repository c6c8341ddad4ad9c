#pragma once

#include <cstdint>
#include <vector>

#include "engine/attention/policy.h"
#include "engine/cache/prefix_cache.h"
#include "engine/request/request.h"
#include "kernels/step_batch.h"

namespace winnow {

/// One engine step, as it went.
struct StepStats {
  int prefill_tokens = 0;
  int decode_tokens = 0;
  int sequences = 0;
  double schedule_seconds = 0;
  double forward_seconds = 0;
  double sample_seconds = 0;  ///< sampling, detokenizing, handing out
  /// Of generated tokens row by row; a piece of a prompt counts its context once, in bytes alone.
  KvTraffic traffic;
  std::vector<ProbedMass> probed;  ///< sampled in this step
  int fallbacks = 0;               ///< sequences whose budget was doubled
};

/// The engine's state between two steps.
struct EngineGauges {
  int running_requests = 0;       ///< that have been started, preempted ones among them
  int waiting_requests = 0;       ///< that have not been started, in the mailbox or the queue
  int waiting_prompt_tokens = 0;  ///< of these
  /// Until the last of those in the queue has its turn if nobody else comes, by an estimate.
  double estimated_wait_seconds = 0;
  int kv_blocks_used = 0;
  int kv_blocks_total = 0;
  int host_slots_used = 0;
  int host_slots_total = 0;
  HostTraffic host_traffic = {};  ///< since the start
};

/// Receives what happens in the engine, for metrics and logs. Calls come from the engine thread,
/// except OnRejected, which comes from the thread that submitted; none may block.
class EngineObserver {
 public:
  virtual ~EngineObserver() = default;
  virtual void OnStep(const StepStats& stats) = 0;
  virtual void OnGauges(const EngineGauges& gauges) = 0;
  virtual void OnFinished(const RequestSummary& summary) = 0;
  virtual void OnPreempted() = 0;
  virtual void OnRejected(const absl::Status& status) = 0;
};

}  // namespace winnow
