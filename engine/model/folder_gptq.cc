#include "engine/model/folder_gptq.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/data_type.h"

namespace winnow {
namespace {

constexpr int kWordBits = 32;
constexpr int64_t kTileOutputs = 64;  // rows that are written side by side

class GptqMatrix : public QuantizedMatrix {
 public:
  GptqMatrix(const SafetensorsTensor& codes, const SafetensorsTensor& zeros,
             const SafetensorsTensor& scales, std::vector<int32_t> groups,
             const FolderQuantization& quantization)
      : QuantizedMatrix(codes.shape[1], static_cast<int64_t>(groups.size())),
        codes_(codes),
        zeros_(zeros),
        scales_(scales),
        groups_(std::move(groups)),
        bits_(quantization.bits),
        zero_offset_(static_cast<uint32_t>(quantization.zero_offset)) {}

  void Widen(float* out) const override {
    const int per_word = kWordBits / bits_;
    const std::vector<float> zeros = WidenZeros();
    std::vector<float> scales(zeros.size());
    Dequantize(*scales_.type->supported, scales_.data.data(), static_cast<int64_t>(scales.size()),
               scales.data());
    for (int64_t begin = 0; begin < rows(); begin += kTileOutputs) {
      const int64_t end = std::min(begin + kTileOutputs, rows());
      for (int64_t w = 0; w < codes_.shape[0]; ++w) {
        const int32_t* groups = groups_.data() + w * per_word;
        for (int64_t o = begin; o < end; ++o) {
          uint32_t word = LoadWord(codes_.data, w * rows() + o);
          float* to = out + o * columns() + w * per_word;
          for (int n = 0; n < per_word; ++n, word >>= bits_) {
            const auto at = static_cast<size_t>(groups[n] * rows() + o);
            to[n] = (static_cast<float>(word & mask()) - zeros[at]) * scales[at];
          }
        }
      }
    }
  }

 private:
  uint32_t mask() const { return (1u << bits_) - 1; }

  std::vector<float> WidenZeros() const {
    const int per_word = kWordBits / bits_;
    std::vector<float> zeros;
    zeros.reserve(static_cast<size_t>(scales_.shape[0] * rows()));
    for (int64_t w = 0; w < zeros_.shape[0] * zeros_.shape[1]; ++w) {
      uint32_t word = LoadWord(zeros_.data, w);
      for (int n = 0; n < per_word; ++n, word >>= bits_) {
        zeros.push_back(static_cast<float>((word & mask()) + zero_offset_));
      }
    }
    return zeros;
  }

  const SafetensorsTensor& codes_;
  const SafetensorsTensor& zeros_;
  const SafetensorsTensor& scales_;
  const std::vector<int32_t> groups_;  ///< [columns] which of the scales
  const int bits_;
  const uint32_t zero_offset_;
};

/// Of each of `inputs`, the group.
absl::StatusOr<std::vector<int32_t>> ReadGroups(const FolderQuantization& quantization,
                                                int64_t inputs, int64_t groups,
                                                TensorGroup& tensors) {
  std::vector<int32_t> group_of(static_cast<size_t>(inputs));
  if (tensors.Find("g_idx") == nullptr && !quantization.is_permuted) {
    for (int64_t i = 0; i < inputs; ++i) {
      group_of[static_cast<size_t>(i)] =
          quantization.group_size == 0 ? 0 : static_cast<int32_t>(i / quantization.group_size);
    }
    return group_of;
  }
  const auto stored = tensors.Get("g_idx", {"I32"}, {inputs});
  if (!stored.ok()) return stored.status();
  for (int64_t i = 0; i < inputs; ++i) {
    const auto group = static_cast<int32_t>(LoadWord((*stored)->data, i));
    if (group < 0 || group >= groups) {
      return tensors.Invalid(
          "g_idx", absl::StrCat("has at ", i, " the group ", group, "; there are ", groups));
    }
    group_of[static_cast<size_t>(i)] = group;
  }
  return group_of;
}

}  // namespace

absl::StatusOr<std::unique_ptr<const QuantizedMatrix>> OpenGptqMatrix(
    const FolderQuantization& quantization, TensorGroup& tensors) {
  constexpr int64_t kAny = TensorGroup::kAny;
  const int per_word = kWordBits / quantization.bits;
  const auto codes = tensors.Get("qweight", {"I32"}, {kAny, kAny});
  if (!codes.ok()) return codes.status();
  const int64_t inputs = (*codes)->shape[0] * per_word;
  const int64_t outputs = (*codes)->shape[1];
  if (outputs % per_word != 0) {
    return tensors.Invalid("qweight", absl::StrCat("has ", outputs, " outputs; they must be a ",
                                                   "multiple of ", per_word));
  }
  const int64_t group_size = quantization.group_size == 0 ? inputs : quantization.group_size;
  const int64_t groups = (inputs + group_size - 1) / group_size;
  const auto zeros = tensors.Get("qzeros", {"I32"}, {groups, outputs / per_word});
  if (!zeros.ok()) return zeros.status();
  const auto scales = tensors.Get("scales", {"F16", "BF16", "F32"}, {groups, outputs});
  if (!scales.ok()) return scales.status();
  absl::StatusOr<std::vector<int32_t>> group_of = ReadGroups(quantization, inputs, groups, tensors);
  if (!group_of.ok()) return group_of.status();
  return std::make_unique<GptqMatrix>(**codes, **zeros, **scales, *std::move(group_of),
                                      quantization);
}

}  // namespace winnow
