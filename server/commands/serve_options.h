#pragma once

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/model/config.h"
#include "engine/request/engine_options.h"
#include "server/commands/serve_flags.h"
#include "server/session/served_model.h"

namespace winnow {

/// On the CPU, whose memory is there for others, too: a context that most requests stay within,
/// where the model was trained for a longer one, and a pool for some of them.
inline constexpr int kDefaultMaxContext = 8192;
inline constexpr int kDefaultKvTokens = 16384;

/// Tokens that no sequence exceeds, whatever the model; 0: as many as it was trained for.
int LongestContext(const ServeFlags& flags);

/// The engine's limits for this model. Those of a pool that is to take what memory a device has
/// left have no blocks yet: FitToPool gives them. INVALID_ARGUMENT names the flag that doesn't fit.
absl::StatusOr<EngineOptions> MakeEngineOptions(const ServeFlags& flags, const ModelConfig& config);

/// The limits for the pool that there is: its blocks, and sequences that it holds.
/// RESOURCE_EXHAUSTED if that is less than --max-context.
absl::Status FitToPool(const ServeFlags& flags, int kv_blocks, EngineOptions& options);

/// What requests may ask of attention. INVALID_ARGUMENT names the flag that doesn't fit.
absl::StatusOr<AttentionLimits> MakeAttentionLimits(const ServeFlags& flags);

}  // namespace winnow
