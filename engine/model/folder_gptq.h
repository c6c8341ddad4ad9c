#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "engine/model/folder_quantization.h"
#include "engine/model/quantized_matrix.h"
#include "engine/model/tensor_group.h"

namespace winnow {

/// A matrix of GPTQ's layout, 4 or 8 bits a weight, which a group of inputs shares a scale and a
/// zero point for: with W of [outputs, inputs]
///   W[o, i] = (code[i, o] - zero[g, o]) scales[g, o],  g = g_idx[i], or i / group_size without it.
/// `qweight` [inputs bits / 32, outputs] and `qzeros` [groups, outputs bits / 32] are I32: a word
/// holds inputs, and outputs, one after the other from the lowest bits. Stored zero points lack
/// `zero_offset`. `scales` are [groups, outputs], `g_idx` I32 [inputs].
/// INVALID_ARGUMENT names the tensor that is missing, of another shape or type, or names no group.
absl::StatusOr<std::unique_ptr<const QuantizedMatrix>> OpenGptqMatrix(
    const FolderQuantization& quantization, TensorGroup& tensors);

}  // namespace winnow
