#include "kernels/cpu/packed_matrix.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/float16.h"

namespace winnow::cpu {
namespace {

constexpr int64_t kAlignment = 64;

PanelFormat FormatOf(DataType type, bool widen) {
  if (widen) return PanelFormat::kF32;
  switch (type) {
    case DataType::kF32:
      return PanelFormat::kF32;
    case DataType::kF16:
      return PanelFormat::kF16;
    case DataType::kBF16:
      return PanelFormat::kBF16;
    case DataType::kQ4_0:
    case DataType::kQ4_1:
    case DataType::kQ4_K:
      return PanelFormat::kU4;
    case DataType::kQ5_0:
    case DataType::kQ8_0:
      return PanelFormat::kS8;
    case DataType::kQ5_1:
    case DataType::kQ5_K:
      return PanelFormat::kS8Min;
    case DataType::kQ6_K:
      return PanelFormat::kS8Half;
  }
  return PanelFormat::kF32;
}

int64_t PanelBytes(PanelFormat format, int64_t columns) {
  switch (format) {
    case PanelFormat::kF32:
      return columns * kPanelRows * 4;
    case PanelFormat::kF16:
    case PanelFormat::kBF16:
      return columns * kPanelRows * 2;
    default:
      return columns / BlockColumns(format) * PanelBlockBytes(format);
  }
}

// One block of one row as codes and fp32 scale and minimum; `columns` of it are used.
struct UnpackedBlock {
  float scale = 0;
  float minimum = 0;
  int8_t codes[32];
};

uint16_t LoadU16(const std::byte* p) {
  uint16_t value;
  std::memcpy(&value, p, sizeof(value));
  return value;
}

float LoadHalf(const std::byte* p) { return HalfToFloat(LoadU16(p)); }

// The 6-bit scale and minimum of sub-block `j` of Q4_K and Q5_K, packed in 12 bytes.
void UnpackScaleMin(const uint8_t* packed, int j, int* scale, int* minimum) {
  if (j < 4) {
    *scale = packed[j] & 63;
    *minimum = packed[j + 4] & 63;
  } else {
    *scale = (packed[j + 4] & 15) | (packed[j - 4] >> 6) << 4;
    *minimum = (packed[j + 4] >> 4) | (packed[j] >> 6) << 4;
  }
}

// Block `index` (of BlockColumns(FormatOf(type)) columns) of a stored row, as codes. Layouts: GGUF.
void UnpackBlock(DataType type, const std::byte* row, int64_t index, UnpackedBlock* out) {
  switch (type) {
    case DataType::kQ4_0:
    case DataType::kQ4_1: {
      const bool has_min = type == DataType::kQ4_1;
      const std::byte* block = row + index * BlockBytes(type);
      out->scale = LoadHalf(block);
      out->minimum = has_min ? LoadHalf(block + 2) : -8 * out->scale;
      const auto* nibbles = reinterpret_cast<const uint8_t*>(block + (has_min ? 4 : 2));
      for (int i = 0; i < 16; ++i) {
        out->codes[i] = nibbles[i] & 15;
        out->codes[i + 16] = nibbles[i] >> 4;
      }
      return;
    }
    case DataType::kQ5_0:
    case DataType::kQ5_1: {
      const bool has_min = type == DataType::kQ5_1;
      const std::byte* block = row + index * BlockBytes(type);
      out->scale = LoadHalf(block);
      if (has_min) out->minimum = LoadHalf(block + 2);
      block += has_min ? 4 : 2;
      uint32_t high;
      std::memcpy(&high, block, sizeof(high));
      const auto* nibbles = reinterpret_cast<const uint8_t*>(block + 4);
      const int offset = has_min ? 0 : 16;
      for (int i = 0; i < 16; ++i) {
        out->codes[i] = static_cast<int8_t>(((nibbles[i] & 15) | (high >> i & 1) << 4) - offset);
        out->codes[i + 16] =
            static_cast<int8_t>((nibbles[i] >> 4 | (high >> (i + 16) & 1) << 4) - offset);
      }
      return;
    }
    case DataType::kQ8_0: {
      const std::byte* block = row + index * BlockBytes(type);
      out->scale = LoadHalf(block);
      std::memcpy(out->codes, block + 2, 32);
      return;
    }
    case DataType::kQ4_K:
    case DataType::kQ5_K: {  // fp16 d, fp16 dmin, 12 bytes of scales, [high bits 32], nibbles 128
      const std::byte* block = row + index / 8 * BlockBytes(type);
      const int j = static_cast<int>(index % 8);
      int scale;
      int minimum;
      UnpackScaleMin(reinterpret_cast<const uint8_t*>(block + 4), j, &scale, &minimum);
      out->scale = LoadHalf(block) * static_cast<float>(scale);
      out->minimum = -LoadHalf(block + 2) * static_cast<float>(minimum);
      const auto* data = reinterpret_cast<const uint8_t*>(block + 16);
      const uint8_t* high = type == DataType::kQ5_K ? data : nullptr;
      const uint8_t* nibbles = (high ? data + 32 : data) + j / 2 * 32;
      for (int i = 0; i < 32; ++i) {
        int code = j % 2 == 0 ? nibbles[i] & 15 : nibbles[i] >> 4;
        if (high) code |= (high[i] >> j & 1) << 4;
        out->codes[i] = static_cast<int8_t>(code);
      }
      return;
    }
    case DataType::kQ6_K: {  // low nibbles 128, high pairs 64, int8 scales 16, fp16 d
      const std::byte* block = row + index / 16 * BlockBytes(type);
      const auto* low = reinterpret_cast<const uint8_t*>(block);
      const uint8_t* high = low + 128;
      const auto* scales = reinterpret_cast<const int8_t*>(low + 192);
      const int j = static_cast<int>(index % 16);
      out->scale = LoadHalf(block + 208) * static_cast<float>(scales[j]);
      for (int i = 0; i < 16; ++i) {
        const int k = j * 16 + i;
        const int half = k / 128;          // 128 columns share 64 low bytes and 32 high bytes
        const int quarter = k % 128 / 32;  // which 32 of them
        const int l = k % 32;
        const uint8_t byte = low[half * 64 + quarter % 2 * 32 + l];
        const int nibble = quarter < 2 ? byte & 15 : byte >> 4;
        const int bits = high[half * 32 + l] >> (2 * quarter) & 3;
        out->codes[i] = static_cast<int8_t>((nibble | bits << 4) - 32);
      }
      return;
    }
    default:
      return;  // float types have no codes
  }
}

// Packs rows [first, first + kPanelRows) of `part` as one panel of an integer format.
void PackIntegerPanel(const HostMatrix& part, PanelFormat format, int64_t first, uint8_t* panel) {
  const int block_columns = BlockColumns(format);
  const int64_t row_bytes = RowBytes(part.type, part.columns);
  const int rows = static_cast<int>(std::min<int64_t>(kPanelRows, part.rows - first));
  for (int64_t b = 0; b < part.columns / block_columns; ++b) {
    auto* scales = reinterpret_cast<uint16_t*>(panel);
    uint16_t* minimums = scales + kPanelRows;
    uint8_t* codes = panel + kPanelRows * (HasMinimum(format) ? 4 : 2);
    for (int r = 0; r < rows; ++r) {
      UnpackedBlock block;
      UnpackBlock(part.type, part.data.data() + (first + r) * row_bytes, b, &block);
      scales[r] = FloatToHalf(block.scale);
      if (HasMinimum(format)) minimums[r] = FloatToHalf(block.minimum);
      for (int k = 0; k < block_columns; ++k) {
        const int quad = k / 4;
        const int byte = 4 * r + k % 4;
        if (format == PanelFormat::kU4) {
          codes[quad / 2 * 64 + byte] |= block.codes[k] << (quad % 2 * 4);
        } else {
          codes[quad * 64 + byte] = static_cast<uint8_t>(block.codes[k]);
        }
      }
    }
    panel += PanelBlockBytes(format);
  }
}

// Packs rows [first, first + kPanelRows) of `part` as one panel [columns][kPanelRows].
void PackFloatPanel(const HostMatrix& part, PanelFormat format, int64_t first, uint8_t* panel) {
  const int64_t row_bytes = RowBytes(part.type, part.columns);
  const int rows = static_cast<int>(std::min<int64_t>(kPanelRows, part.rows - first));
  std::vector<float> widened(format == PanelFormat::kF32 ? part.columns : 0);
  for (int r = 0; r < rows; ++r) {
    const std::byte* row = part.data.data() + (first + r) * row_bytes;
    if (format == PanelFormat::kF32) {
      Dequantize(part.type, row, part.columns, widened.data());
      auto* out = reinterpret_cast<float*>(panel);
      for (int64_t k = 0; k < part.columns; ++k) out[k * kPanelRows + r] = widened[k];
    } else {
      auto* out = reinterpret_cast<uint16_t*>(panel);
      for (int64_t k = 0; k < part.columns; ++k) out[k * kPanelRows + r] = LoadU16(row + 2 * k);
    }
  }
}

}  // namespace

int64_t PackedBytes(DataType type, int64_t rows, int64_t columns) {
  const PanelFormat format = FormatOf(type, /*widen=*/false);
  const Segment segment{.format = format, .rows = rows, .panel_bytes = PanelBytes(format, columns)};
  return segment.panels() * segment.panel_bytes;
}

absl::StatusOr<std::unique_ptr<PackedMatrix>> PackedMatrix::Pack(std::span<const HostMatrix> parts,
                                                                 bool widen) {
  std::unique_ptr<PackedMatrix> matrix(new PackedMatrix);
  matrix->columns_ = parts.empty() ? 0 : parts[0].columns;
  for (const HostMatrix& part : parts) {
    if (part.columns != matrix->columns_) {
      return absl::InvalidArgumentError(absl::StrCat("stacked matrices have ", matrix->columns_,
                                                     " and ", part.columns, " columns"));
    }
    const int64_t block = BlockElements(part.type);
    if (part.columns % block != 0 ||
        static_cast<int64_t>(part.data.size()) != part.rows * RowBytes(part.type, part.columns)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "a matrix of type ", DataTypeName(part.type), " needs rows of a multiple of ", block,
          " columns and as many bytes; it has ", part.columns, " columns and ", part.data.size(),
          " bytes"));
    }
    const PanelFormat format = FormatOf(part.type, widen);
    Segment segment{format, matrix->rows_, part.rows, PanelBytes(format, part.columns),
                    matrix->bytes_};
    matrix->bytes_ += segment.panels() * segment.panel_bytes;
    matrix->rows_ += part.rows;
    matrix->segments_.push_back(segment);
  }
  const int64_t allocated = (matrix->bytes_ + kAlignment - 1) / kAlignment * kAlignment;
  matrix->data_ = static_cast<uint8_t*>(std::aligned_alloc(kAlignment, allocated));
  if (matrix->data_ == nullptr) {
    return absl::ResourceExhaustedError(
        absl::StrCat("no memory for a weight matrix of ", allocated, " bytes"));
  }
  std::memset(matrix->data_, 0, allocated);
  for (size_t i = 0; i < parts.size(); ++i) {
    const Segment& segment = matrix->segments_[i];
    for (int64_t p = 0; p < segment.panels(); ++p) {
      uint8_t* panel = matrix->data_ + segment.offset + p * segment.panel_bytes;
      if (IsInteger(segment.format)) {
        PackIntegerPanel(parts[i], segment.format, p * kPanelRows, panel);
      } else {
        PackFloatPanel(parts[i], segment.format, p * kPanelRows, panel);
      }
    }
  }
  return matrix;
}

PackedMatrix::~PackedMatrix() { std::free(data_); }

}  // namespace winnow::cpu
