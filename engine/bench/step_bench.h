#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "engine/model/transformer.h"
#include "kernels/backend.h"

namespace winnow {

/// Speed of whole decode steps.
struct DecodeBenchResult {
  double step_seconds = 0;        ///< median
  double tokens_per_second = 0;   ///< of all sequences together
  int64_t kv_bytes_read = 0;      ///< per step, keys, values and labels of all layers
  int64_t experts_read = 0;       ///< per step, of all layers: those that rows chose, counted
  int64_t weight_bytes_read = 0;  ///< per step, with those experts
  double achieved_bytes_per_second = 0;
  double peak_bytes_per_second = 0;  ///< read bandwidth of the device, measured in this run
};

/// Times steps that decode one token for each of `batch` sequences of `context` tokens, forward
/// pass and greedy choice, until `seconds` have passed (at least 5 steps). The KV pool is filled
/// with random numbers: attention costs the same whatever they are. REQUIRES: the
/// transformer's pool holds batch * (context + 1) tokens.
absl::StatusOr<DecodeBenchResult> BenchDecode(Transformer& transformer, Backend& backend, int batch,
                                              int context, const Selection& selection,
                                              double seconds);

/// Speed of prompt processing.
struct PrefillBenchResult {
  double tokens_per_second = 0;          ///< median
  double achieved_flops_per_second = 0;  ///< 2 per weight and token, and of attention
  /// The same of one large product, measured in this run: `context` rows times bf16 [11008, 4096].
  double peak_flops_per_second = 0;
};

/// Times the prefill of one prompt of `context` tokens in chunks of `step_tokens`, until `seconds`
/// have passed (at least 3 prompts). REQUIRES: the pool holds `context` tokens.
absl::StatusOr<PrefillBenchResult> BenchPrefill(Transformer& transformer, Backend& backend,
                                                int context, int step_tokens, double seconds);

}  // namespace winnow
