#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>

#include "absl/status/statusor.h"
#include "engine/model/folder_quantization.h"
#include "engine/model/quantized_matrix.h"
#include "engine/model/tensor_group.h"

namespace winnow {

/// The quantised matrices of a folder.
struct QuantizedMatrices {
  /// By the names that the matrices had before: "model.layers.0.mlp.up_proj.weight".
  std::map<std::string, std::unique_ptr<const QuantizedMatrix>> matrices;
  std::set<std::string> tensors;  ///< the names of those that store them
};

/// Finds the matrices that are quantised as the folder's configuration says, and checks the tensors
/// of each; other tensors are left alone. `folder` stands in messages. REQUIRES: `tensors` outlives
/// what comes of it. INVALID_ARGUMENT names the tensor that is missing or wrong.
absl::StatusOr<QuantizedMatrices> OpenQuantizedMatrices(const std::string& folder,
                                                        const FolderQuantization& quantization,
                                                        const SafetensorsMap& tensors);

}  // namespace winnow
