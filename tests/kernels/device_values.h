#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/backend.h"

namespace winnow::test {

/// Memory of a backend's device that tests fill and read.
class DeviceValues {
 public:
  explicit DeviceValues(Backend& backend) : backend_(backend) {}

  std::byte* Take(int64_t bytes) {
    buffers_.push_back(*backend_.Allocate(bytes));
    return buffers_.back()->data();
  }

  /// A tensor of `type`; bf16 takes the values rounded to nearest.
  Tensor Put(const std::vector<float>& values, int64_t columns, DataType type = DataType::kF32) {
    const int64_t rows = std::ssize(values) / columns;
    const int64_t bytes = rows * RowBytes(type, columns);
    const Tensor tensor{Take(bytes), rows, columns, columns, type};
    std::vector<uint16_t> rounded;
    for (const float value : values) rounded.push_back(ToBf16(value));
    const void* source = values.data();
    if (type == DataType::kBF16) source = rounded.data();
    backend_.Copy(static_cast<std::byte*>(tensor.data), static_cast<const std::byte*>(source),
                  bytes);
    Sync();
    return tensor;
  }

  /// A tensor of NaNs: what an operator leaves out shows.
  Tensor Poisoned(int64_t rows, int64_t columns, DataType type = DataType::kF32) {
    return Put(std::vector<float>(static_cast<size_t>(rows * columns), NAN), columns, type);
  }

  template <typename T>
  std::vector<T> Get(const T* data, int64_t count) {
    std::vector<T> values(static_cast<size_t>(count));
    backend_.Copy(reinterpret_cast<std::byte*>(values.data()),
                  reinterpret_cast<const std::byte*>(data),
                  count * static_cast<int64_t>(sizeof(T)));
    Sync();
    return values;
  }

  std::vector<float> Get(const Tensor& tensor) {
    const int64_t count = tensor.rows * tensor.columns;
    if (tensor.type == DataType::kF32) return Get(tensor.Row(0), count);
    std::vector<float> values;
    for (const uint16_t stored : Get(static_cast<const uint16_t*>(tensor.data), count)) {
      values.push_back(std::bit_cast<float>(static_cast<uint32_t>(stored) << 16));
    }
    return values;
  }

  /// Memory for the routes of so many rows.
  ExpertRoutes Routes(int64_t rows, int experts, int chosen) {
    const int64_t pairs = rows * chosen;
    ExpertRoutes routes{.rows = rows, .experts = experts, .chosen = chosen};
    routes.ids = reinterpret_cast<int32_t*>(Take(pairs * 4));
    routes.weights = reinterpret_cast<float*>(Take(pairs * 4));
    routes.pairs = reinterpret_cast<int32_t*>(Take(pairs * 4));
    routes.groups =
        reinterpret_cast<ExpertGroup*>(Take(experts * static_cast<int64_t>(sizeof(ExpertGroup))));
    routes.expert_reads = reinterpret_cast<int64_t*>(Take(8));
    return routes;
  }

  /// What a value becomes as an activation of `type`.
  static double Rounded(float value, DataType type) {
    if (type == DataType::kF32) return value;
    return std::bit_cast<float>(static_cast<uint32_t>(ToBf16(value)) << 16);
  }

 private:
  static uint16_t ToBf16(float value) {
    const auto bits = std::bit_cast<uint32_t>(value);
    return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
  }

  void Sync() {
    const absl::Status status = backend_.Synchronize();
    EXPECT_TRUE(status.ok()) << status;
  }

  Backend& backend_;
  std::vector<std::unique_ptr<Buffer>> buffers_;
};

}  // namespace winnow::test
