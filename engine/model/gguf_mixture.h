#pragma once

#include "absl/status/status.h"
#include "engine/model/config.h"
#include "engine/model/gguf.h"
#include "engine/model/metadata_fields.h"

namespace winnow {

/// Reads from a GGUF file's metadata what experts its layers have, if any; an expert is as wide as
/// `config.ffn` unless the file says so. UNIMPLEMENTED names what Winnow does not compute of them,
/// INVALID_ARGUMENT a key that is out of range.
absl::Status ReadGgufMixture(const GgufFile& file, MetadataFields& fields, ModelConfig& config);

}  // namespace winnow
