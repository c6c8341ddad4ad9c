#pragma once

#include "engine/attention/sequence_attention.h"

namespace winnow {

/// Limits of the engine. Every queue and pool is bounded by one of these.
struct EngineOptions {
  int block_tokens = 32;           ///< tokens of one KV block
  int kv_blocks = 0;               ///< blocks in the pool for each group of layers (KvWindows)
  int host_slots = 0;              ///< blocks that the host tier holds (HostTier), of any group
  int max_context = 0;             ///< tokens of one sequence, prompt and continuation
  int max_step_tokens = 512;       ///< rows of one step: decode tokens first, then prefill chunks
  int max_running_sequences = 64;  ///< sequences that own KV blocks at the same time
  int max_waiting_requests = 256;  ///< that have not been started
  /// Prompt tokens of these, unless it is a single request.
  int max_waiting_tokens = 1 << 17;
  RecallOptions recall;  ///< how selections are watched
};

}  // namespace winnow
