#pragma once

#include <cstdint>
#include <vector>

namespace winnow::cpu {

/// Columns of an activation row that share a scale.
inline constexpr int kActivationBlock = 32;
/// Rows of activations that lie together, so that a product finds those it computes side by side at
/// fixed distances: what a tile of AMX holds.
inline constexpr int kActivationRows = 16;

/// One block of columns of kActivationRows rows, as the integer products want them:
///   x[k] ~ scale * code[k], scale = max |x| / 127, codes -127..127.
struct alignas(64) ActivationBlock {
  int8_t codes[kActivationRows][kActivationBlock];
  float scales[kActivationRows];
  /// scale * sum of codes: what a weight block's minimum is multiplied with.
  float sums[kActivationRows];
  /// Sums of codes of each half block: undo the offset that makes signed weights unsigned.
  int32_t half_sums[2][kActivationRows];
};

/// Quantised activations. Grows where nothing was reserved.
class QuantizedRows {
 public:
  /// Makes room for Resize to any sizes up to these.
  void Reserve(int64_t rows, int64_t columns) {
    data_.reserve((rows + kActivationRows - 1) / kActivationRows * (columns / kActivationBlock));
  }

  /// Makes the contents [rows, columns], undefined at first.
  void Resize(int64_t rows, int64_t columns) {
    blocks_ = columns / kActivationBlock;
    data_.resize((rows + kActivationRows - 1) / kActivationRows * blocks_);
  }

  int64_t blocks() const { return blocks_; }

  /// The blocks [blocks()] of the tile of rows that `row` belongs to, as its row
  /// row % kActivationRows.
  ActivationBlock* tile(int64_t row) { return data_.data() + row / kActivationRows * blocks_; }
  const ActivationBlock* tile(int64_t row) const {
    return data_.data() + row / kActivationRows * blocks_;
  }

 private:
  int64_t blocks_ = 0;
  std::vector<ActivationBlock> data_;
};

}  // namespace winnow::cpu
