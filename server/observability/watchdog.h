#pragma once

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/engine.h"

namespace winnow {

/// Whether the engine gets on. DEADLINE_EXCEEDED when the step that it computes began more than
/// `step_timeout` before `now` (infinite: never), UNAVAILABLE when the device has failed; the
/// message has the engine's state.
absl::Status CheckEngine(const Engine& engine, absl::Duration step_timeout, absl::Time now);

}  // namespace winnow
