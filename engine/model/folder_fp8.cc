#include "engine/model/folder_fp8.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/data_type.h"

namespace winnow {
namespace {

constexpr int kMantissaBits = 3;
constexpr int kExponentBias = 7;

float FromE4m3(int code) {
  const int exponent = code >> kMantissaBits & 15;
  const int mantissa = code & 7;
  const float sign = code >= 128 ? -1.0f : 1.0f;
  if (exponent == 15 && mantissa == 7) return std::numeric_limits<float>::quiet_NaN();
  const int significand = exponent == 0 ? mantissa : mantissa + (1 << kMantissaBits);
  return sign * std::ldexp(static_cast<float>(significand),
                           std::max(exponent, 1) - kExponentBias - kMantissaBits);
}

const std::array<float, 256>& E4m3Values() {
  static const std::array<float, 256> values = [] {
    std::array<float, 256> made;
    for (int code = 0; code < 256; ++code) made[static_cast<size_t>(code)] = FromE4m3(code);
    return made;
  }();
  return values;
}

int64_t DivideUp(int64_t size, int64_t part) { return (size + part - 1) / part; }

/// The part of a matrix that shares a scale.
struct Block {
  int64_t rows = 0;
  int64_t columns = 0;
};

class Fp8Matrix : public QuantizedMatrix {
 public:
  Fp8Matrix(const SafetensorsTensor& weight, const SafetensorsTensor& scale, const Block& block)
      : QuantizedMatrix(weight.shape[0], weight.shape[1]),
        weight_(weight),
        scale_(scale),
        block_(block) {}

  void Widen(float* out) const override {
    const std::array<float, 256>& values = E4m3Values();
    const int64_t row_blocks = DivideUp(rows(), block_.rows);
    const int64_t column_blocks = DivideUp(columns(), block_.columns);
    std::vector<float> scales(static_cast<size_t>(row_blocks * column_blocks));
    Dequantize(*scale_.type->supported, scale_.data.data(), static_cast<int64_t>(scales.size()),
               scales.data());
    const auto* codes = reinterpret_cast<const uint8_t*>(weight_.data.data());
    for (int64_t row = 0; row < rows(); ++row) {
      const float* row_scales = scales.data() + row / block_.rows * column_blocks;
      for (int64_t begin = 0; begin < columns(); begin += block_.columns) {
        const float scale = *row_scales++;
        const int64_t end = std::min(begin + block_.columns, columns());
        for (int64_t c = begin; c < end; ++c) out[c] = values[codes[c]] * scale;
      }
      codes += columns();
      out += columns();
    }
  }

 private:
  const SafetensorsTensor& weight_;
  const SafetensorsTensor& scale_;
  const Block block_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<const QuantizedMatrix>> OpenFp8Matrix(
    const FolderQuantization& quantization, TensorGroup& tensors) {
  constexpr int64_t kAny = TensorGroup::kAny;
  const auto weight = tensors.Get("weight", {"F8_E4M3"}, {kAny, kAny});
  if (!weight.ok()) return weight.status();
  const bool is_inverse = tensors.Find("weight_scale_inv") != nullptr;
  const char* const name = is_inverse ? "weight_scale_inv" : "weight_scale";
  const SafetensorsTensor* scale = tensors.Find(name);
  if (scale == nullptr) return tensors.Invalid(name, "is missing");
  if (!scale->type->supported) {
    return tensors.Invalid(name,
                           absl::StrCat("is ", scale->type->name, "; it must be F32, F16 or BF16"));
  }
  for (const char* of_activations : {"input_scale", "activation_scale"}) {
    tensors.Find(of_activations);
  }
  const int64_t rows = (*weight)->shape[0];
  const int64_t columns = (*weight)->shape[1];
  const std::vector<int64_t>& shape = scale->shape;
  std::vector<std::pair<std::vector<int64_t>, Block>> known = {
      {{}, {rows, columns}},     {{1}, {rows, columns}}, {{1, 1}, {rows, columns}},
      {{rows, 1}, {1, columns}}, {{rows}, {1, columns}},
  };
  if (quantization.block_rows > 0) {
    const Block block = {quantization.block_rows, quantization.block_columns};
    known.push_back({{DivideUp(rows, block.rows), DivideUp(columns, block.columns)}, block});
  }
  for (const auto& [known_shape, block] : known) {
    if (shape == known_shape) return std::make_unique<Fp8Matrix>(**weight, *scale, block);
  }
  return tensors.Invalid(
      name, absl::StrCat("has the shape [", absl::StrJoin(shape, ", "), "]; a matrix of [", rows,
                         ", ", columns, "] takes one scale, or [", rows, ", 1], or [",
                         absl::StrJoin(known.back().first, ", "), "]"));
}

}  // namespace winnow
