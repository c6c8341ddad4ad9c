#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace winnow {

/// The bytes of a file. NOT_FOUND when it can't be read.
absl::StatusOr<std::string> ReadFile(const std::string& path);

}  // namespace winnow
