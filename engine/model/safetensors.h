#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/data_type.h"

namespace winnow {

/// An element type of the format.
struct SafetensorsType {
  const char* name;                   ///< as files spell it, such as "BF16"
  int bytes;                          ///< of an element
  std::optional<DataType> supported;  ///< none: weights of this type can't be computed with
};

/// A tensor of a safetensors file.
struct SafetensorsTensor {
  std::string name;
  const SafetensorsType* type = nullptr;  ///< one of a table that lives forever
  std::vector<int64_t> shape;             ///< outermost first; empty for a single number
  std::span<const std::byte> data;        ///< points into the parsed bytes, aligned to nothing
};

/// Parses and validates the bytes of a whole safetensors file, which may hold anything: memory in
/// use stays within a small multiple of its header's size. Tensors come in the order of their data,
/// which fills the file without gaps. INVALID_ARGUMENT says in one sentence, without the file's
/// name, what is wrong.
/// Format: https://github.com/huggingface/safetensors/blob/main/README.md
absl::StatusOr<std::vector<SafetensorsTensor>> ParseSafetensors(std::span<const std::byte> file);

}  // namespace winnow
