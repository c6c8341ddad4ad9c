#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "engine/model/folder_quantization.h"
#include "engine/model/quantized_matrix.h"
#include "engine/model/tensor_group.h"

namespace winnow {

/// A matrix of 8-bit floats (E4M3: 4 bits of exponent, 3 of mantissa, no infinities): `weight`
/// [rows, columns] F8_E4M3, multiplied by `weight_scale` or `weight_scale_inv`, which in spite of
/// its name is no inverse. That is one number, one for each row, or one for each block
/// [ceil(rows / block_rows), ceil(columns / block_columns)]. Scales of activations are not used.
/// INVALID_ARGUMENT names the tensor that is missing or of another shape or type.
absl::StatusOr<std::unique_ptr<const QuantizedMatrix>> OpenFp8Matrix(
    const FolderQuantization& quantization, TensorGroup& tensors);

}  // namespace winnow
