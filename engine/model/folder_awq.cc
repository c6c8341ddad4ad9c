#include "engine/model/folder_awq.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/data_type.h"

namespace winnow {
namespace {

constexpr int kBits = 4;
constexpr int kPerWord = 32 / kBits;
constexpr uint32_t kMask = (1 << kBits) - 1;
constexpr int kOrder[kPerWord] = {0, 2, 4, 6, 1, 3, 5, 7};  // of a word's outputs, from the lowest
constexpr int64_t kTileInputs = 64;                         // whose codes stay in the nearest cache

class AwqMatrix : public QuantizedMatrix {
 public:
  AwqMatrix(const SafetensorsTensor& codes, const SafetensorsTensor& zeros,
            const SafetensorsTensor& scales, int64_t group_size)
      : QuantizedMatrix(scales.shape[1], codes.shape[0]),
        codes_(codes),
        zeros_(zeros),
        scales_(scales),
        group_size_(group_size) {}

  void Widen(float* out) const override {
    const int64_t words = codes_.shape[1];
    const std::vector<float> zeros = WidenZeros();
    std::vector<float> scales(zeros.size());
    Dequantize(*scales_.type->supported, scales_.data.data(), static_cast<int64_t>(scales.size()),
               scales.data());
    for (int64_t begin = 0; begin < columns(); begin += kTileInputs) {
      const int64_t end = std::min(begin + kTileInputs, columns());
      for (int64_t w = 0; w < words; ++w) {
        for (int64_t i = begin; i < end; ++i) {
          uint32_t word = LoadWord(codes_.data, i * words + w);
          const int64_t shared = i / group_size_ * rows();
          for (const int place : kOrder) {
            const int64_t o = w * kPerWord + place;
            const auto at = static_cast<size_t>(shared + o);
            out[o * columns() + i] = (static_cast<float>(word & kMask) - zeros[at]) * scales[at];
            word >>= kBits;
          }
        }
      }
    }
  }

 private:
  std::vector<float> WidenZeros() const {
    std::vector<float> zeros(static_cast<size_t>(scales_.shape[0] * rows()));
    const auto words = static_cast<int64_t>(zeros.size()) / kPerWord;
    for (int64_t w = 0; w < words; ++w) {
      uint32_t word = LoadWord(zeros_.data, w);
      for (const int place : kOrder) {
        zeros[static_cast<size_t>(w * kPerWord + place)] = static_cast<float>(word & kMask);
        word >>= kBits;
      }
    }
    return zeros;
  }

  const SafetensorsTensor& codes_;
  const SafetensorsTensor& zeros_;
  const SafetensorsTensor& scales_;
  const int64_t group_size_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<const QuantizedMatrix>> OpenAwqMatrix(
    const FolderQuantization& quantization, TensorGroup& tensors) {
  constexpr int64_t kAny = TensorGroup::kAny;
  const auto codes = tensors.Get("qweight", {"I32"}, {kAny, kAny});
  if (!codes.ok()) return codes.status();
  const int64_t inputs = (*codes)->shape[0];
  const int64_t words = (*codes)->shape[1];
  const int64_t group_size = quantization.group_size == 0 ? inputs : quantization.group_size;
  if (inputs % group_size != 0) {
    return tensors.Invalid(
        "qweight", absl::StrCat("has ", inputs, " inputs, which are no groups of ", group_size,
                                " (quantization_config.group_size)"));
  }
  const int64_t groups = inputs / group_size;
  const auto zeros = tensors.Get("qzeros", {"I32"}, {groups, words});
  if (!zeros.ok()) return zeros.status();
  const auto scales = tensors.Get("scales", {"F16", "BF16", "F32"}, {groups, words * kPerWord});
  if (!scales.ok()) return scales.status();
  return std::make_unique<AwqMatrix>(**codes, **zeros, **scales, group_size);
}

}  // namespace winnow
