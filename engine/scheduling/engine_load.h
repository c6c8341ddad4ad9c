#pragma once

#include <string>

#include "absl/time/time.h"
#include "engine/request/engine_options.h"
#include "engine/scheduling/forecast.h"
#include "engine/scheduling/load.h"

namespace winnow {

/// What the engine has to do, and how long that takes. The engine thread keeps the true one and
/// publishes copies; each copy has one owner.
struct EngineLoad {
  explicit EngineLoad(const EngineOptions& options) : forecast(options) {}

  /// Until the end of a request that comes now, with `more` before it than what waits.
  Estimate EndOf(int priority, const std::string& client, const Load& load,
                 const Load& more = {}) const;

  /// How long a request without a prompt would wait for its turn if it came now.
  absl::Duration EstimatedWait(int priority, const std::string& client) const;

  /// How long the last of those who wait would wait for its turn from now on if nobody else came; 0
  /// if none does.
  absl::Duration QueueWait() const;

  /// Sequences of the client that wait or run.
  double SequencesOf(const std::string& client) const;
  bool idle() const { return running.levels.empty() && waiting.total().requests == 0; }

  Forecast forecast;
  WaitingLoad waiting;
  RunningLoad running;
};

}  // namespace winnow
