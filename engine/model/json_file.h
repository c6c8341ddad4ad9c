#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace winnow {

/// The JSON object that a text is; INVALID_ARGUMENT with `path` when it is none.
absl::StatusOr<nlohmann::json> ParseJsonObject(const std::string& path, std::string_view text);

/// The same of a file. NOT_FOUND when there is none, INVALID_ARGUMENT when it is no regular file or
/// has more than `max_bytes`.
absl::StatusOr<nlohmann::json> ReadJsonFile(const std::string& path, int64_t max_bytes);

}  // namespace winnow
