#pragma once

#include <cstdint>

#include "engine/request.h"

namespace winnow {

/// One engine step, as it went.
struct StepStats {
  int prefill_tokens = 0;
  int decode_tokens = 0;
  int sequences = 0;
  double schedule_seconds = 0;
  double forward_seconds = 0;
  double sample_seconds = 0;  ///< sampling, detokenizing, handing out
  /// Keys and values that attention read: the context of each decode token and of each prefill
  /// chunk once.
  int64_t kv_bytes_read = 0;
};

/// The engine's state between two steps.
struct EngineGauges {
  int running_requests = 0;
  int waiting_requests = 0;
  int kv_blocks_used = 0;
  int kv_blocks_total = 0;
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
