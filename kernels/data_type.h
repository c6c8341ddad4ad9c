#pragma once

#include <cstddef>
#include <cstdint>

namespace winnow {

/// Element types of matrices as model files store them. Quantised types come in blocks: a fixed
/// number of consecutive elements of one row share scales.
enum class DataType { kF32, kF16, kBF16, kQ4_0, kQ4_1, kQ5_0, kQ5_1, kQ8_0, kQ4_K, kQ5_K, kQ6_K };

/// Name as model files' tools print it, such as "Q4_1".
const char* DataTypeName(DataType type);

/// Elements that one block holds: 1 for float types, 32 or 256 for quantised ones.
int64_t BlockElements(DataType type);

/// Bytes of one block.
int64_t BlockBytes(DataType type);

/// Bytes of one row of `columns` elements. REQUIRES: columns is a multiple of BlockElements(type).
inline int64_t RowBytes(DataType type, int64_t columns) {
  return columns / BlockElements(type) * BlockBytes(type);
}

/// Widens `columns` stored elements at `source` to fp32 in `out` ([columns]), exactly as the GGUF
/// format defines them. The reference that every faster path is tested against.
/// REQUIRES: columns is a multiple of BlockElements(type).
void Dequantize(DataType type, const std::byte* source, int64_t columns, float* out);

}  // namespace winnow
