#pragma once

#include "absl/status/status.h"
#include "engine/model/config.h"
#include "engine/model/family.h"
#include "engine/model/gguf.h"
#include "engine/model/metadata_fields.h"

namespace winnow {

/// Llama 3's factors of the RoPE frequencies, [dim / 2], in GGUF files that have them. No module
/// reads this tensor and the two that follow: ModelConfig::ropes holds what they say.
inline constexpr char kRopeFactorsTensor[] = "rope_freqs.weight";
/// Longrope's factors, for contexts up to the original one and for longer ones.
inline constexpr char kShortRopeFactorsTensor[] = "rope_factors_short.weight";
inline constexpr char kLongRopeFactorsTensor[] = "rope_factors_long.weight";

/// Reads how layers rotate queries and keys to config.ropes: the first one, and where a family's
/// windowed layers rotate by a base of their own a second one for them. Of longrope's factors those
/// are taken that sequences of up to `context` tokens need. REQUIRES: config.head_dim and
/// config.max_context have been read. INVALID_ARGUMENT names the key or the tensor that is wrong,
/// UNIMPLEMENTED the kind of scaling that Winnow lacks.
absl::Status ReadGgufRopes(const GgufFile& file, const Family& family, int context,
                           MetadataFields& fields, ModelConfig& config);

}  // namespace winnow
