#pragma once

#include <span>
#include <string>

#include "absl/status/status.h"
#include "engine/model/config.h"
#include "engine/model/weight_source.h"

namespace winnow {

/// Checks that the files at `path` hold exactly the tensors that a model of this configuration
/// consists of (model_spec.h), besides RoPE's factors. INVALID_ARGUMENT names the first that is
/// missing or of another shape, UNIMPLEMENTED one that no module reads.
absl::Status CheckTensors(const std::string& path, std::span<const WeightInfo> tensors,
                          const ModelConfig& config);

}  // namespace winnow
