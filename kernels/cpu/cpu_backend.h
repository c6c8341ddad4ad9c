#pragma once

#include <cstdint>
#include <memory>

#include "kernels/backend.h"

namespace winnow {

struct CpuOptions {
  int threads = 0;  ///< 0: one per core
  /// Dequantise weights to fp32 and multiply in fp32: the exact, slow path that the integer one is
  /// compared with.
  bool f32_matmul = false;
};

/// The backend that computes on the host's processors.
std::unique_ptr<Backend> CreateCpuBackend(const CpuOptions& options);

/// Bytes that a weight matrix of this type takes once that backend has loaded it.
/// REQUIRES: columns is a multiple of BlockElements(type).
int64_t CpuMatrixBytes(DataType type, int64_t rows, int64_t columns);

}  // namespace winnow
