#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace winnow {

/// A matrix that a Hugging Face folder stores quantised, in several tensors.
class QuantizedMatrix {
 public:
  virtual ~QuantizedMatrix() = default;

  int64_t rows() const { return rows_; }  ///< outputs
  int64_t columns() const { return columns_; }

  /// Widens all weights to fp32, exactly as the format defines them: out [rows, columns].
  virtual void Widen(float* out) const = 0;

 protected:
  QuantizedMatrix(int64_t rows, int64_t columns) : rows_(rows), columns_(columns) {}

 private:
  const int64_t rows_;
  const int64_t columns_;
};

/// The word of 32 bits at `index` of a tensor of I32, whose data is aligned to nothing.
inline uint32_t LoadWord(std::span<const std::byte> data, int64_t index) {
  uint32_t word = 0;
  std::memcpy(&word, data.data() + index * static_cast<int64_t>(sizeof(word)), sizeof(word));
  return word;
}

}  // namespace winnow
