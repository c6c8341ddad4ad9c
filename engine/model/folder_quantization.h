#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "absl/status/statusor.h"

namespace winnow {

/// How the matrices of a Hugging Face folder are quantised: the quantization_config in its
/// config.json. Which ones are is told by the tensors.
struct FolderQuantization {
  enum class Method { kNone, kFp8, kAwq, kGptq };
  Method method = Method::kNone;

  // FP8
  int block_rows = 0;     ///< weights that share a scale; 0: none do in blocks
  int block_columns = 0;  ///< likewise

  // AWQ, GPTQ
  int bits = 0;              ///< of a weight
  int group_size = 0;        ///< inputs that share a scale and a zero point; 0: all do
  int zero_offset = 0;       ///< what is to be added to stored zero points
  bool is_permuted = false;  ///< inputs are grouped as g_idx says, which must be there
};

/// Reads that of a folder. The errors of ReadFolderConfig; UNIMPLEMENTED names quant_method and
/// what in it Winnow does not read.
absl::StatusOr<FolderQuantization> ReadFolderQuantization(const std::string& folder);

/// The same of the file's JSON, an object; `path` is where it was read.
absl::StatusOr<FolderQuantization> ParseFolderQuantization(const std::string& path,
                                                           const nlohmann::json& json);

}  // namespace winnow
