#pragma once

#include "absl/status/status.h"
#include "engine/request/engine_options.h"
#include "engine/request/request.h"

namespace winnow {

/// INVALID_ARGUMENT, naming the field and the limit, if the engine could never serve the request:
/// it exceeds the context, or one of its sequences alone the KV pool, or names tokens that the
/// vocabulary lacks.
absl::Status CheckRequest(const Request& request, const EngineOptions& options, int vocab);

/// Tokens that a sequence of the request may have at most, prompt included.
int LongestSequence(const Request& request, const EngineOptions& options);

}  // namespace winnow
