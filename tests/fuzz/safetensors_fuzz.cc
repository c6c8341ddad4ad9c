// A safetensors file of any bytes: what is accepted has tensors that fill its data, and its
// quantised matrices can be widened.

#include <cstdint>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "engine/base/check.h"
#include "engine/model/folder_names.h"
#include "engine/model/quantized_folder.h"
#include "engine/model/safetensors.h"

namespace winnow {
namespace {

/// As the seeds are.
std::vector<FolderQuantization> Quantizations() {
  using Method = FolderQuantization::Method;
  return {{.method = Method::kFp8, .block_rows = 8, .block_columns = 16},
          {.method = Method::kAwq, .bits = 4, .group_size = 32},
          {.method = Method::kGptq, .bits = 4, .group_size = 32, .zero_offset = 1},
          {.method = Method::kGptq, .bits = 8, .group_size = 32, .is_permuted = true},
          {.method = Method::kGptq, .bits = 4}};
}

void WidenQuantized(const std::vector<SafetensorsTensor>& tensors) {
  constexpr int64_t kMaxWeights = 1 << 20;
  SafetensorsMap by_name;
  for (const SafetensorsTensor& tensor : tensors) by_name.emplace(tensor.name, tensor);
  for (const FolderQuantization& quantization : Quantizations()) {
    const auto opened = OpenQuantizedMatrices("folder", quantization, by_name);
    if (!opened.ok()) continue;
    for (const auto& [name, matrix] : opened->matrices) {
      WINNOW_CHECK(matrix->rows() > 0 && matrix->columns() > 0);
      if (matrix->rows() * matrix->columns() > kMaxWeights) continue;
      std::vector<float> widened(static_cast<size_t>(matrix->rows() * matrix->columns()));
      matrix->Widen(widened.data());
    }
  }
}

}  // namespace
}  // namespace winnow

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace winnow;
  const std::span<const std::byte> file = std::as_bytes(std::span(data, size));
  const auto tensors = ParseSafetensors(file);
  if (!tensors.ok()) return 0;
  const std::byte* const end = file.data() + file.size();
  size_t left = 0;
  for (const SafetensorsTensor& tensor : *tensors) left += tensor.data.size();
  WINNOW_CHECK(left <= file.size());
  const std::byte* next = end - left;
  std::set<std::string> names;
  for (const SafetensorsTensor& tensor : *tensors) {
    WINNOW_CHECK(tensor.data.data() == next);
    next += tensor.data.size();
    WINNOW_CHECK(names.insert(tensor.name).second);
    auto elements = static_cast<int64_t>(tensor.data.size()) / tensor.type->bytes;
    for (const int64_t one : tensor.shape) {
      WINNOW_CHECK(one >= 0 && (one == 0 ? elements == 0 : elements % one == 0));
      elements /= one == 0 ? 1 : one;
    }
    WINNOW_CHECK(elements <= 1);
    for (const bool post_norms : {false, true}) {
      const auto known = TranslateFolderName(tensor.name, post_norms);
      WINNOW_CHECK(!known || (!known->name.empty() && known->expert >= -1));
    }
  }
  WINNOW_CHECK(next == end);
  WidenQuantized(*tensors);
  return 0;
}
