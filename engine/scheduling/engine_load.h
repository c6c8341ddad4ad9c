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

  /// How long a request without a prompt would wait for its turn if it came now.
  absl::Duration EstimatedWait(int priority, const std::string& client) const {
    const Load ahead = waiting.Ahead(priority, client, {});
    return absl::Seconds(forecast.PaceAfter(ahead, running, priority).wait_seconds);
  }

  Forecast forecast;
  WaitingLoad waiting;
  RunningLoad running;
};

}  // namespace winnow
