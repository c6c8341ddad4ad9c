#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/backend.h"
#include "kernels/float16.h"

namespace winnow::test {

/// Types of stored weights.
inline constexpr DataType kAllTypes[] = {DataType::kF32,  DataType::kF16,  DataType::kBF16,
                                         DataType::kQ4_0, DataType::kQ4_1, DataType::kQ5_0,
                                         DataType::kQ5_1, DataType::kQ8_0, DataType::kQ4_K,
                                         DataType::kQ5_K, DataType::kQ6_K};

/// `count` normally distributed numbers.
inline std::vector<float> RandomFloats(int64_t count, std::mt19937& random, float deviation = 1) {
  std::normal_distribution<float> normal(0, deviation);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

inline Tensor View(std::vector<float>& values, int64_t columns) {
  return {values.data(), static_cast<int64_t>(values.size()) / columns, columns, columns};
}

/// Random stored weights of any type: random bytes with finite, moderate scales.
inline std::vector<std::byte> RandomWeights(DataType type, int64_t rows, int64_t columns,
                                            std::mt19937& random) {
  std::vector<std::byte> data(rows * RowBytes(type, columns));
  const auto put = [&](std::byte* at, uint16_t half) { std::memcpy(at, &half, sizeof(half)); };
  std::uniform_real_distribution<float> scale(0.005f, 0.02f);
  for (std::byte& byte : data) byte = static_cast<std::byte>(random());
  for (size_t at = 0; at < data.size(); at += BlockBytes(type)) {
    std::byte* block = data.data() + at;
    const uint16_t half = FloatToHalf(scale(random));
    switch (type) {
      case DataType::kF32: {
        const float value = scale(random) - 0.0125f;
        std::memcpy(block, &value, sizeof(value));
        break;
      }
      case DataType::kF16:
        put(block, FloatToHalf(scale(random) - 0.0125f));
        break;
      case DataType::kBF16:
        put(block, static_cast<uint16_t>(std::bit_cast<uint32_t>(scale(random) - 0.0125f) >> 16));
        break;
      case DataType::kQ6_K:
        put(block + 208, FloatToHalf(scale(random) / 64));
        break;
      case DataType::kQ4_K:
      case DataType::kQ5_K:
        put(block, FloatToHalf(scale(random) / 32));
        put(block + 2, FloatToHalf(scale(random) / 8));
        break;
      case DataType::kQ4_1:
      case DataType::kQ5_1:
        put(block, half);
        put(block + 2, FloatToHalf(-scale(random) * 8));
        break;
      default:
        put(block, half);
        break;
    }
  }
  return data;
}

}  // namespace winnow::test
