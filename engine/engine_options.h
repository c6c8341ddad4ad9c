#pragma once

#include <cstdint>

namespace winnow {

/// Limits of the engine. Every queue and pool is bounded by one of these.
struct EngineOptions {
  int block_tokens = 32;           ///< tokens of one KV block
  int kv_blocks = 0;               ///< blocks in the pool
  int max_context = 0;             ///< tokens of one sequence, prompt and continuation
  int max_step_tokens = 512;       ///< rows of one step: decode tokens first, then prefill chunks
  int max_running_sequences = 64;  ///< sequences that own KV blocks at the same time
  int max_waiting_requests = 256;  ///< admission queue; one more is refused
  int64_t kv_bytes_per_token = 0;  ///< keys and values of one token in all layers, for StepStats
};

}  // namespace winnow
