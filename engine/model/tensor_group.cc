#include "engine/model/tensor_group.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace winnow {
namespace {

bool Fits(const std::vector<int64_t>& shape, const std::vector<int64_t>& wanted) {
  return std::ranges::equal(shape, wanted, [](int64_t size, int64_t wanted_size) {
    return size == wanted_size || (wanted_size == TensorGroup::kAny && size > 0);
  });
}

}  // namespace

const SafetensorsTensor* TensorGroup::Find(std::string_view end) {
  const auto found = tensors_.find(absl::StrCat(module_, ".", std::string(end)));
  if (found == tensors_.end()) return nullptr;
  read_.insert(found->first);
  return &found->second;
}

absl::StatusOr<const SafetensorsTensor*> TensorGroup::Get(
    std::string_view end, std::initializer_list<std::string_view> types,
    const std::vector<int64_t>& shape) {
  const SafetensorsTensor* tensor = Find(end);
  if (tensor == nullptr) return Invalid(end, "is missing");
  const auto is_type = [&](std::string_view type) { return type == tensor->type->name; };
  if (!tensor->data.empty() && std::ranges::any_of(types, is_type) && Fits(tensor->shape, shape)) {
    return tensor;
  }
  const auto write_size = [](std::string* out, int64_t size) {
    absl::StrAppend(out, size == kAny ? "any" : absl::StrCat(size));
  };
  const auto write_type = [](std::string* out, std::string_view type) {
    out->append(type.data(), type.size());
  };
  return Invalid(
      end,
      absl::StrCat("is ", tensor->type->name, " of the shape [", absl::StrJoin(tensor->shape, ", "),
                   "]; it must be ", absl::StrJoin(types, " or ", write_type), " of [",
                   absl::StrJoin(shape, ", ", write_size), "] as its matrix is quantised"));
}

absl::Status TensorGroup::Invalid(std::string_view end, std::string_view message) const {
  return absl::InvalidArgumentError(absl::StrCat(folder_, ": the tensor ", module_, ".",
                                                 std::string(end), " ", std::string(message)));
}

}  // namespace winnow
