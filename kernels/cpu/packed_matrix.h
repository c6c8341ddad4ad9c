#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"

namespace winnow::cpu {

/// Output rows that are computed together: one AVX-512 register of fp32, two of AVX2.
inline constexpr int kPanelRows = 16;

/// How the weights of a panel are encoded. Every quantised type of model files maps onto one of the
/// integer formats without loss in the codes:
///   weight[n, k] = scale[n, b] * code[n, k] + minimum[n, b], b = k / block.
enum class PanelFormat {
  kU4,      ///< codes 0..15, blocks of 32, with minimum: Q4_0 Q4_1 Q4_K
  kS8,      ///< codes -128..127, blocks of 32, no minimum: Q8_0 Q5_0
  kS8Min,   ///< codes 0..31, blocks of 32, with minimum: Q5_1 Q5_K
  kS8Half,  ///< codes -32..31, blocks of 16, no minimum: Q6_K
  kF32,
  kF16,
  kBF16,
};

inline bool IsInteger(PanelFormat format) { return format <= PanelFormat::kS8Half; }

/// Elements of a row that share a scale.
constexpr int BlockColumns(PanelFormat format) { return format == PanelFormat::kS8Half ? 16 : 32; }

constexpr bool HasMinimum(PanelFormat format) {
  return format == PanelFormat::kU4 || format == PanelFormat::kS8Min;
}

/// Bytes of one block of a panel of an integer format: scales [16] fp16, minimums [16] fp16 if the
/// format has them, codes. Codes come in quads: 64 bytes with byte 4 row + i = code[row, 4 quad +
/// i]; 4-bit formats put quad 2j in the low and quad 2j + 1 in the high nibbles of the same 64
/// bytes.
constexpr int64_t PanelBlockBytes(PanelFormat format) {
  const int codes = kPanelRows * BlockColumns(format) / (format == PanelFormat::kU4 ? 2 : 1);
  return kPanelRows * (HasMinimum(format) ? 4 : 2) + codes;
}

/// Rows of one matrix in one format, cut into panels of 16 rows (the last padded with zeros). A
/// panel is contiguous: integer formats [blocks][PanelBlockBytes], float formats [columns][16].
struct Segment {
  PanelFormat format;
  int64_t first_row = 0;  ///< in the matrix
  int64_t rows = 0;
  int64_t panel_bytes = 0;
  int64_t offset = 0;  ///< of the first panel in the matrix's data

  int64_t panels() const { return (rows + kPanelRows - 1) / kPanelRows; }
};

/// Bytes of the panels of `rows` rows of a type, not widened.
int64_t PackedBytes(DataType type, int64_t rows, int64_t columns);

/// A weight matrix in panels: segments for stacked parts of different types.
class PackedMatrix : public Matrix {
 public:
  /// Packs `parts` stacked along their rows. With `widen`, weights are dequantised to fp32 panels:
  /// the slow exact path. INVALID_ARGUMENT when columns differ or don't fit the type's blocks.
  static absl::StatusOr<std::unique_ptr<PackedMatrix>> Pack(std::span<const HostMatrix> parts,
                                                            bool widen);
  ~PackedMatrix() override;

  int64_t rows() const override { return rows_; }
  int64_t columns() const override { return columns_; }
  int64_t bytes() const override { return bytes_; }

  std::span<const Segment> segments() const { return segments_; }
  const uint8_t* panel(const Segment& segment, int64_t index) const {
    return data_ + segment.offset + index * segment.panel_bytes;
  }

 private:
  PackedMatrix() = default;

  int64_t rows_ = 0;
  int64_t columns_ = 0;
  int64_t bytes_ = 0;
  std::vector<Segment> segments_;
  uint8_t* data_ = nullptr;
};

}  // namespace winnow::cpu
