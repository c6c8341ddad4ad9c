#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace winnow {

/// How a checkpoint's authors want it sampled, in the ranges that requests have; what is unset they
/// do not say. `temperature` is 0 where they say not to sample.
struct SamplingDefaults {
  std::optional<float> temperature;         ///< at least 0
  std::optional<float> top_p;               ///< in (0, 1]
  std::optional<int32_t> top_k;             ///< at least 1; 0: all tokens
  std::optional<float> repetition_penalty;  ///< above 0

  bool operator==(const SamplingDefaults&) const = default;
};

/// What a generation_config.json says.
struct GenerationConfig {
  SamplingDefaults sampling;
  std::vector<int64_t> end_tokens;  ///< `eos_token_id`, one or several; not checked
};

/// Reads a generation_config.json. INVALID_ARGUMENT with one sentence that names the key whose
/// value is of another type or out of its range.
absl::StatusOr<GenerationConfig> ReadGenerationConfig(std::string_view json);

}  // namespace winnow
