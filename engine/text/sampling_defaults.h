#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace winnow {

// Ranges of sampling, of requests and files alike. A penalty of much less would divide logits to
// infinity.
inline constexpr float kMaxTemperature = 100;
inline constexpr float kMinRepetitionPenalty = 0.01f;
inline constexpr float kMaxRepetitionPenalty = 10;

/// How a checkpoint's authors want it sampled; what is unset they do not say. `temperature` is 0
/// where they say not to sample.
struct SamplingDefaults {
  std::optional<double> temperature;         ///< 0 to kMaxTemperature
  std::optional<double> top_p;               ///< in (0, 1]
  std::optional<int32_t> top_k;              ///< at least 1; 0: all tokens
  std::optional<double> min_p;               ///< in [0, 1)
  std::optional<double> repetition_penalty;  ///< kMinRepetitionPenalty to kMaxRepetitionPenalty

  bool operator==(const SamplingDefaults&) const = default;
};

/// What a generation_config.json says.
struct GenerationConfig {
  SamplingDefaults sampling;
  std::vector<int64_t> end_tokens;  ///< `eos_token_id`, one or several; not checked
};

/// Reads a generation_config.json. Of what it says besides, such as the number of beams, nothing is
/// used. INVALID_ARGUMENT with one sentence that names the key whose
/// value is of another type or out of its range.
absl::StatusOr<GenerationConfig> ReadGenerationConfig(std::string_view json);

}  // namespace winnow
