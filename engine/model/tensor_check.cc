#include "engine/model/tensor_check.h"

#include <map>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/model/gguf_rope.h"
#include "engine/model/model_spec.h"

namespace winnow {

absl::Status CheckTensors(const std::string& path, std::span<const WeightInfo> tensors,
                          const ModelConfig& config) {
  std::map<std::string_view, const WeightInfo*> left;
  for (const WeightInfo& tensor : tensors) left.emplace(tensor.name, &tensor);
  for (const TensorSpec& wanted : ModelSpec::Of(config).tensors) {
    const auto found = left.find(wanted.name);
    if (found == left.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": the tensor ", wanted.name, " is missing"));
    }
    const std::vector<int64_t>& shape = found->second->shape;
    if (shape != wanted.shape) {
      return absl::InvalidArgumentError(absl::StrCat(
          path, ": the tensor ", wanted.name, " has the shape [", absl::StrJoin(shape, ", "),
          "] instead of [", absl::StrJoin(wanted.shape, ", "), "]"));
    }
    left.erase(found);
  }
  for (const char* name : {kRopeFactorsTensor, kShortRopeFactorsTensor, kLongRopeFactorsTensor}) {
    left.erase(name);
  }
  if (left.empty()) return absl::OkStatus();
  // Leaving a tensor out of the computation would give wrong results without a word.
  return absl::UnimplementedError(absl::StrCat(path, ": the tensor ", left.begin()->second->name,
                                               " is not supported in ", config.architecture,
                                               " models"));
}

}  // namespace winnow
