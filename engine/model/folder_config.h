#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "absl/status/statusor.h"
#include "engine/model/config.h"

namespace winnow {

/// What the config.json of a Hugging Face folder says of the model, as ModelConfig::FromGguf would
/// read it from a GGUF file of the same model; `context` as there. NOT_FOUND when there is no such
/// file; INVALID_ARGUMENT names the key that is missing, of another type or out of range,
/// UNIMPLEMENTED the one that asks for what Winnow lacks.
absl::StatusOr<ModelConfig> ReadFolderConfig(const std::string& folder, int context);

/// The same of the file's JSON; `path` is where it was read, in the folder that names the model.
absl::StatusOr<ModelConfig> ParseFolderConfig(const std::string& path, const nlohmann::json& json,
                                              int context);

}  // namespace winnow
