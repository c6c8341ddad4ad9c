#include "engine/model/quantized_folder.h"

#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/model/folder_awq.h"
#include "engine/model/folder_fp8.h"
#include "engine/model/folder_gptq.h"

namespace winnow {
namespace {

using Method = FolderQuantization::Method;
using Opened = absl::StatusOr<std::unique_ptr<const QuantizedMatrix>>;

/// How a kind of quantised matrix is found and opened.
struct Format {
  Method method;
  std::string_view end;   ///< of the name of the tensor that holds the codes
  std::string_view type;  ///< of that tensor where others have such a name, too
  Opened (*open)(const FolderQuantization&, TensorGroup&);
};

constexpr Format kFormats[] = {
    {Method::kFp8, ".weight", "F8_E4M3", OpenFp8Matrix},
    {Method::kAwq, ".qweight", "", OpenAwqMatrix},
    {Method::kGptq, ".qweight", "", OpenGptqMatrix},
};

}  // namespace

absl::StatusOr<QuantizedMatrices> OpenQuantizedMatrices(const std::string& folder,
                                                        const FolderQuantization& quantization,
                                                        const SafetensorsMap& tensors) {
  QuantizedMatrices found;
  for (const Format& format : kFormats) {
    if (format.method != quantization.method) continue;
    for (const auto& [name, tensor] : tensors) {
      if (!name.ends_with(format.end)) continue;
      if (!format.type.empty() && tensor.type->name != format.type) continue;
      const std::string module = name.substr(0, name.size() - format.end.size());
      TensorGroup group(folder, module, tensors);
      Opened matrix = format.open(quantization, group);
      if (!matrix.ok()) return matrix.status();
      found.matrices.emplace(absl::StrCat(module, ".weight"), *std::move(matrix));
      found.tensors.insert(group.read().begin(), group.read().end());
    }
  }
  return found;
}

}  // namespace winnow
