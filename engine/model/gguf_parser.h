#pragma once

#include <cstddef>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/gguf.h"

namespace winnow {

/// What a GGUF file holds, in file order. Tensor data points into the parsed bytes.
struct GgufContents {
  std::map<std::string, GgufFile::Value, std::less<>> metadata;
  std::vector<GgufFile::Tensor> tensors;
  std::map<std::string, size_t, std::less<>> tensor_index;  ///< name to position in `tensors`
};

/// Parses and validates the bytes of a whole GGUF v3 file. `file` may hold anything: every read is
/// checked, and memory in use stays within a small multiple of file.size(). INVALID_ARGUMENT says
/// in one sentence what is wrong.
absl::StatusOr<GgufContents> ParseGguf(std::span<const std::byte> file);

}  // namespace winnow
