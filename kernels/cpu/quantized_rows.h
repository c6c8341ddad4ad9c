#pragma once

#include <cstdint>
#include <vector>

namespace winnow::cpu {

/// Columns of an activation row that share a scale.
inline constexpr int kActivationBlock = 32;

/// Activations as the integer products want them: per block of 32 columns
///   x[k] ~ scale[b] * code[k], scale = max |x| / 127, codes -127..127.
/// Reused from call to call, so that steady-state steps allocate nothing.
class QuantizedRows {
 public:
  /// Makes room for [rows, columns]; contents are undefined afterwards.
  void Resize(int64_t rows, int64_t columns) {
    columns_ = columns;
    codes_.resize(rows * columns);
    scales_.resize(rows * blocks());
    sums_.resize(rows * blocks());
    half_sums_.resize(rows * blocks() * 2);
  }

  int64_t columns() const { return columns_; }
  int64_t blocks() const { return columns_ / kActivationBlock; }

  int8_t* codes(int64_t row) { return codes_.data() + row * columns_; }
  const int8_t* codes(int64_t row) const { return codes_.data() + row * columns_; }
  float* scales(int64_t row) { return scales_.data() + row * blocks(); }
  const float* scales(int64_t row) const { return scales_.data() + row * blocks(); }
  /// scale * sum of codes, per block: what a weight block's minimum is multiplied with.
  float* sums(int64_t row) { return sums_.data() + row * blocks(); }
  const float* sums(int64_t row) const { return sums_.data() + row * blocks(); }
  /// Sum of codes per 16 columns: undoes the offset that makes signed weights unsigned.
  int32_t* half_sums(int64_t row) { return half_sums_.data() + row * blocks() * 2; }
  const int32_t* half_sums(int64_t row) const { return half_sums_.data() + row * blocks() * 2; }

 private:
  int64_t columns_ = 0;
  std::vector<int8_t> codes_;
  std::vector<float> scales_;
  std::vector<float> sums_;
  std::vector<int32_t> half_sums_;
};

}  // namespace winnow::cpu
