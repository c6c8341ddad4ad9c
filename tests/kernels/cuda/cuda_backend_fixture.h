#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/backend.h"
#include "kernels/cuda/cuda_backend.h"

namespace winnow::test {

/// To nearest, as the device rounds.
inline float AsBf16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  return std::bit_cast<float>((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000);
}

/// A test of the device's operators: numbers go there and come back as fp32. Skipped where there is
/// no device.
class CudaBackendTest : public testing::Test {
 protected:
  void SetUp() override {
    absl::StatusOr<std::unique_ptr<Backend>> created = CreateCudaBackend();
    if (created.status().code() == absl::StatusCode::kFailedPrecondition) {
      GTEST_SKIP() << created.status().message();
    }
    ASSERT_TRUE(created.ok()) << created.status();
    backend_ = *std::move(created);
  }

  std::byte* Bytes(const void* data, int64_t bytes) {
    absl::StatusOr<std::unique_ptr<Buffer>> buffer = backend_->Allocate(bytes);
    EXPECT_TRUE(buffer.ok()) << buffer.status();
    backend_->Copy((*buffer)->data(), static_cast<const std::byte*>(data), bytes);
    buffers_.push_back(*std::move(buffer));
    return buffers_.back()->data();
  }

  const float* Floats(std::span<const float> values) {
    return reinterpret_cast<const float*>(
        Bytes(values.data(), static_cast<int64_t>(values.size_bytes())));
  }

  /// A tensor of `type`; bf16 takes the values rounded.
  Tensor Put(const std::vector<float>& values, int64_t columns, DataType type = DataType::kF32) {
    const int64_t rows = std::ssize(values) / columns;
    if (type == DataType::kF32) {
      return {Bytes(values.data(), std::ssize(values) * 4), rows, columns, columns, type};
    }
    std::vector<uint16_t> rounded;
    for (const float value : values) {
      rounded.push_back(static_cast<uint16_t>(std::bit_cast<uint32_t>(AsBf16(value)) >> 16));
    }
    return {Bytes(rounded.data(), std::ssize(rounded) * 2), rows, columns, columns, type};
  }

  /// A tensor that holds NaNs: what an operator leaves out shows.
  Tensor Poisoned(int64_t rows, int64_t columns, DataType type) {
    return Put(std::vector<float>(rows * columns, NAN), columns, type);
  }

  std::vector<float> Get(const Tensor& tensor) {
    const int64_t count = tensor.rows * tensor.columns;
    std::vector<float> values(count);
    if (tensor.type == DataType::kF32) {
      backend_->CopyToHost(tensor, values.data());
    } else {
      std::vector<uint16_t> stored(count);
      backend_->Copy(reinterpret_cast<std::byte*>(stored.data()),
                     static_cast<const std::byte*>(tensor.data), count * 2);
      Sync();
      for (int64_t i = 0; i < count; ++i) {
        values[i] = std::bit_cast<float>(static_cast<uint32_t>(stored[i]) << 16);
      }
    }
    Sync();
    return values;
  }

  void Sync() {
    const absl::Status status = backend_->Synchronize();
    EXPECT_TRUE(status.ok()) << status;
  }

  std::unique_ptr<Backend> backend_;
  std::vector<std::unique_ptr<Buffer>> buffers_;
};

/// bf16 keeps 8 bits.
inline constexpr double kBf16Error = 0x1p-8;

}  // namespace winnow::test
