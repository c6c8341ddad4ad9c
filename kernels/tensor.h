#pragma once

#include <cstdint>

#include "kernels/data_type.h"

namespace winnow {

/// A view of activations in device memory: [rows, columns], rows `stride` elements apart.
struct Tensor {
  void* data = nullptr;
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t stride = 0;
  DataType type = DataType::kF32;  ///< kF32, or Backend::activation_type() where that is allowed

  /// A row of fp32 numbers. REQUIRES: type == kF32.
  float* Row(int64_t row) const { return static_cast<float*>(data) + row * stride; }
};

}  // namespace winnow
