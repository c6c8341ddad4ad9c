#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "engine/model/folder_quantization.h"
#include "engine/model/quantized_matrix.h"
#include "engine/model/tensor_group.h"

namespace winnow {

/// A matrix of AutoAWQ's "gemm" layout, 4 bits a weight, which a group of inputs shares a scale and
/// a zero point for: with W of [outputs, inputs]
///   W[o, i] = (code[i, o] - zero[g, o]) scales[g, o],  g = i / group_size.
/// `qweight` [inputs, outputs / 8] and `qzeros` [groups, outputs / 8] are I32: a word holds 8
/// outputs, of which the lowest four bits hold the first, the next four the third, then the fifth,
/// seventh, second, fourth, sixth and eighth. `scales` are [groups, outputs].
/// INVALID_ARGUMENT names the tensor that is missing or of another shape or type.
absl::StatusOr<std::unique_ptr<const QuantizedMatrix>> OpenAwqMatrix(
    const FolderQuantization& quantization, TensorGroup& tensors);

}  // namespace winnow
