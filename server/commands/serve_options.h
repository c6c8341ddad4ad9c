#pragma once

#include "absl/status/statusor.h"
#include "engine/model/config.h"
#include "engine/request/engine_options.h"
#include "server/commands/serve_flags.h"
#include "server/session/served_model.h"

namespace winnow {

/// A context that most requests stay within, where the model was trained for a longer one.
inline constexpr int kDefaultMaxContext = 8192;
inline constexpr int kDefaultKvTokens = 16384;

/// The engine's limits for this model. INVALID_ARGUMENT names the flag that doesn't fit.
absl::StatusOr<EngineOptions> MakeEngineOptions(const ServeFlags& flags, const ModelConfig& config);

/// What requests may ask of attention. INVALID_ARGUMENT names the flag that doesn't fit.
absl::StatusOr<AttentionLimits> MakeAttentionLimits(const ServeFlags& flags);

}  // namespace winnow
