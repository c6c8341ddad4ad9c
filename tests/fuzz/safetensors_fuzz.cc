// A safetensors file of any bytes: what is accepted has tensors that fill its data.

#include <cstdint>
#include <set>
#include <span>
#include <string>

#include "engine/base/check.h"
#include "engine/model/folder_names.h"
#include "engine/model/safetensors.h"

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
  return 0;
}
