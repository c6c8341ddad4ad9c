#pragma once

#include "absl/status/status.h"
#include "engine/model/config.h"
#include "engine/model/family.h"
#include "engine/model/gguf.h"
#include "engine/model/metadata_fields.h"

namespace winnow {

/// Reads how layers attend beside their ropes: which have a sliding window, the scale of scores,
/// and soft caps, that of logits too. REQUIRES: the sizes in `config` have been read.
/// INVALID_ARGUMENT names the key that is wrong, UNIMPLEMENTED a window in a family that has
/// none, or has them in layers that the file does not list.
absl::Status ReadGgufAttention(const GgufFile& file, const Family& family, MetadataFields& fields,
                               ModelConfig& config);

}  // namespace winnow
