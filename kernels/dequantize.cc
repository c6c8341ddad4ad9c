#include <bit>
#include <cstring>

#include "kernels/data_type.h"

// The block layouts below are the GGUF format's. Every product here fits the 24 significant bits of
// fp32 (fp16 scales have 11, group scales and codes together at most 12), so only the addition of a
// minimum rounds, and the results do not depend on whether the compiler fuses it with the product.

namespace winnow {
namespace {

template <typename T>
T LoadAs(const std::byte* source) {
  T value;
  std::memcpy(&value, source, sizeof(value));
  return value;
}

uint32_t Byte(const std::byte* source, int64_t index) {
  return std::to_integer<uint32_t>(source[index]);
}

float FromFloat16(const std::byte* source) {
  const uint32_t bits = LoadAs<uint16_t>(source);
  const uint32_t sign = (bits & 0x8000u) << 16;
  const uint32_t exponent = (bits >> 10) & 0x1fu;
  const uint32_t mantissa = bits & 0x3ffu;
  if (exponent == 0) {  // zero and subnormals: mantissa * 2^-24, exact in fp32
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return sign != 0 ? -magnitude : magnitude;
  }
  const uint32_t wide_exponent = exponent == 0x1f ? 0xffu : exponent + (127 - 15);
  return std::bit_cast<float>(sign | (wide_exponent << 23) | (mantissa << 13));
}

float FromBFloat16(const std::byte* source) {
  return std::bit_cast<float>(static_cast<uint32_t>(LoadAs<uint16_t>(source)) << 16);
}

/// 4-bit code of element i in a block of 32: the first half lies in the low nibbles.
int LowNibbleCode(const std::byte* codes, int i) {
  return static_cast<int>(i < 16 ? Byte(codes, i) & 0xf : Byte(codes, i - 16) >> 4);
}

/// 5-bit code of element i in a block of 32: bit i of the word at `high` is the fifth bit.
int FiveBitCode(const std::byte* high, const std::byte* codes, int i) {
  return LowNibbleCode(codes, i) | static_cast<int>(((LoadAs<uint32_t>(high) >> i) & 1) << 4);
}

/// {fp16 scale, 16 bytes of codes}
void DequantizeQ4_0(const std::byte* block, float* out) {
  const float scale = FromFloat16(block);
  for (int i = 0; i < 32; ++i) out[i] = scale * static_cast<float>(LowNibbleCode(block + 2, i) - 8);
}

/// {fp16 scale, fp16 minimum, 16 bytes of codes}
void DequantizeQ4_1(const std::byte* block, float* out) {
  const float scale = FromFloat16(block);
  const float minimum = FromFloat16(block + 2);
  for (int i = 0; i < 32; ++i) {
    out[i] = scale * static_cast<float>(LowNibbleCode(block + 4, i)) + minimum;
  }
}

/// {fp16 scale, 4 bytes of fifth bits, 16 bytes of codes}
void DequantizeQ5_0(const std::byte* block, float* out) {
  const float scale = FromFloat16(block);
  for (int i = 0; i < 32; ++i) {
    out[i] = scale * static_cast<float>(FiveBitCode(block + 2, block + 6, i) - 16);
  }
}

/// {fp16 scale, fp16 minimum, 4 bytes of fifth bits, 16 bytes of codes}
void DequantizeQ5_1(const std::byte* block, float* out) {
  const float scale = FromFloat16(block);
  const float minimum = FromFloat16(block + 2);
  for (int i = 0; i < 32; ++i) {
    out[i] = scale * static_cast<float>(FiveBitCode(block + 4, block + 8, i)) + minimum;
  }
}

/// {fp16 scale, 32 signed bytes}
void DequantizeQ8_0(const std::byte* block, float* out) {
  const float scale = FromFloat16(block);
  for (int i = 0; i < 32; ++i) {
    out[i] = scale * static_cast<float>(LoadAs<int8_t>(block + 2 + i));
  }
}

struct GroupScale {
  float scale;
  float minimum;
};

/// 6-bit scale and minimum of group `group` (of 8) from the 12 bytes that Q4_K and Q5_K pack them
/// into: bytes 0 to 3 and 4 to 7 hold those of the first four groups in their low 6 bits; bytes 8
/// to 11 the low nibbles of the last four, whose upper 2 bits are the top bits of bytes 0 to 7.
GroupScale UnpackGroupScale(const std::byte* packed, int group) {
  uint32_t scale = 0;
  uint32_t minimum = 0;
  if (group < 4) {
    scale = Byte(packed, group) & 0x3f;
    minimum = Byte(packed, group + 4) & 0x3f;
  } else {
    scale = (Byte(packed, group + 4) & 0xf) | (Byte(packed, group - 4) >> 6 << 4);
    minimum = (Byte(packed, group + 4) >> 4) | (Byte(packed, group) >> 6 << 4);
  }
  return {static_cast<float>(scale), static_cast<float>(minimum)};
}

/// {fp16 scale, fp16 minimum, 12 bytes of group scales and minima, 128 bytes of codes}. Groups of
/// 32 elements; groups 2n and 2n + 1 share 32 bytes, the even one in the low nibbles.
void DequantizeQ4_K(const std::byte* block, float* out) {
  const float super_scale = FromFloat16(block);
  const float super_minimum = FromFloat16(block + 2);
  const std::byte* codes = block + 16;
  for (int group = 0; group < 8; ++group) {
    const GroupScale packed = UnpackGroupScale(block + 4, group);
    const float scale = super_scale * packed.scale;
    const float minimum = super_minimum * packed.minimum;
    for (int i = 0; i < 32; ++i) {
      const uint32_t code = Byte(codes, group / 2 * 32 + i) >> (group % 2 * 4) & 0xf;
      out[group * 32 + i] = scale * static_cast<float>(code) - minimum;
    }
  }
}

/// As Q4_K with 32 bytes of fifth bits before the codes: bit g of byte i belongs to element i of
/// group g.
void DequantizeQ5_K(const std::byte* block, float* out) {
  const float super_scale = FromFloat16(block);
  const float super_minimum = FromFloat16(block + 2);
  const std::byte* high = block + 16;
  const std::byte* codes = block + 48;
  for (int group = 0; group < 8; ++group) {
    const GroupScale packed = UnpackGroupScale(block + 4, group);
    const float scale = super_scale * packed.scale;
    const float minimum = super_minimum * packed.minimum;
    for (int i = 0; i < 32; ++i) {
      const uint32_t low = Byte(codes, group / 2 * 32 + i) >> (group % 2 * 4) & 0xf;
      const uint32_t code = low | (Byte(high, i) >> group & 1) << 4;
      out[group * 32 + i] = scale * static_cast<float>(code) - minimum;
    }
  }
}

/// {128 bytes of low nibbles, 64 bytes of upper bit pairs, 16 signed group scales, fp16 scale}.
/// Two halves of 128 elements; in each, quarter q of 32 elements has its low nibbles in bytes
/// 32 (q % 2) on (upper nibbles of the bytes from q = 2 on) and its bit pair at bit 2q. Every 16
/// elements share a group scale.
void DequantizeQ6_K(const std::byte* block, float* out) {
  const float super_scale = FromFloat16(block + 208);
  for (int half = 0; half < 2; ++half) {
    const std::byte* low = block + half * 64;
    const std::byte* high = block + 128 + half * 32;
    for (int quarter = 0; quarter < 4; ++quarter) {
      for (int i = 0; i < 32; ++i) {
        const int element = half * 128 + quarter * 32 + i;
        const uint32_t nibble = Byte(low, quarter % 2 * 32 + i) >> (quarter / 2 * 4) & 0xf;
        const uint32_t pair = Byte(high, i) >> (quarter * 2) & 3;
        const float scale = super_scale * LoadAs<int8_t>(block + 192 + element / 16);
        out[element] = scale * static_cast<float>(static_cast<int>(nibble | pair << 4) - 32);
      }
    }
  }
}

using DequantizeBlock = void (*)(const std::byte* block, float* out);

DequantizeBlock BlockFunction(DataType type) {
  switch (type) {
    case DataType::kF32:
      return [](const std::byte* s, float* out) { *out = LoadAs<float>(s); };
    case DataType::kF16:
      return [](const std::byte* s, float* out) { *out = FromFloat16(s); };
    case DataType::kBF16:
      return [](const std::byte* s, float* out) { *out = FromBFloat16(s); };
    case DataType::kQ4_0:
      return DequantizeQ4_0;
    case DataType::kQ4_1:
      return DequantizeQ4_1;
    case DataType::kQ5_0:
      return DequantizeQ5_0;
    case DataType::kQ5_1:
      return DequantizeQ5_1;
    case DataType::kQ8_0:
      return DequantizeQ8_0;
    case DataType::kQ4_K:
      return DequantizeQ4_K;
    case DataType::kQ5_K:
      return DequantizeQ5_K;
    case DataType::kQ6_K:
      return DequantizeQ6_K;
  }
  return nullptr;
}

}  // namespace

void Dequantize(DataType type, const std::byte* source, int64_t columns, float* out) {
  const DequantizeBlock dequantize_block = BlockFunction(type);
  const int64_t elements = BlockElements(type);
  const int64_t bytes = BlockBytes(type);
  for (int64_t begin = 0; begin < columns; begin += elements, source += bytes) {
    dequantize_block(source, out + begin);
  }
}

}  // namespace winnow
