#include "engine/text/json_value.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace winnow {
namespace {

const nlohmann::json& Null() {
  static const nlohmann::json kNull;
  return kNull;
}

}  // namespace

JsonValue JsonValue::operator[](const char* key) const {
  std::string name = absl::StrCat(name_, name_.ends_with(": ") ? "" : ".", key);
  if (!value_->is_object()) {
    if (!IsNull()) Fault("is no object");
    return {Null(), std::move(name), *fault_};
  }
  const auto found = value_->find(key);
  return {found == value_->end() ? Null() : *found, std::move(name), *fault_};
}

JsonValue JsonValue::At(size_t i) const {
  return {(*value_)[i], absl::StrCat(name_, "[", i, "]"), *fault_};
}

size_t JsonValue::size() const {
  if (value_->is_array() || value_->is_object()) return value_->size();
  if (!IsNull()) Fault("is neither an array nor an object");
  return 0;
}

std::string JsonValue::String() const {
  if (value_->is_string()) return value_->get<std::string>();
  Fault("is no string");
  return "";
}

bool JsonValue::Bool() const {
  if (value_->is_boolean()) return value_->get<bool>();
  Fault("is neither true nor false");
  return false;
}

int64_t JsonValue::Int() const {
  if (value_->is_number_integer() && *value_ <= INT64_MAX) return value_->get<int64_t>();
  Fault("is no integer of 64 bits");
  return 0;
}

double JsonValue::Number() const {
  if (value_->is_number()) return value_->get<double>();
  Fault("is no number");
  return 0;
}

void JsonValue::Fault(std::string_view what) const {
  Note(absl::StatusCode::kInvalidArgument, what);
}

void JsonValue::Unsupported(std::string_view what) const {
  Note(absl::StatusCode::kUnimplemented, what);
}

void JsonValue::Note(absl::StatusCode code, std::string_view what) const {
  if (!fault_->ok()) return;
  *fault_ = absl::Status(
      code, absl::StrCat(name_, " ", absl::string_view(what.data(), what.size()), "."));
}

absl::StatusOr<nlohmann::json> ParseJson(std::string_view text, std::string_view file_name) {
  nlohmann::json json =
      nlohmann::json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) {
    return absl::InvalidArgumentError(
        absl::StrCat(absl::string_view(file_name.data(), file_name.size()), " is no JSON."));
  }
  return json;
}

}  // namespace winnow
