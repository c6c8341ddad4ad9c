#include "engine/model/json_fields.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"

namespace winnow {
namespace {

using Json = nlohmann::json;

const Json& EmptyObject() {
  static const auto* const empty = new Json(Json::object());
  return *empty;
}

}  // namespace

bool JsonFields::Has(std::string_view key) const { return Find(key) != nullptr; }

bool JsonFields::IsNull(std::string_view key) const {
  const auto found = object_.find(std::string(key));
  return found != object_.end() && found->is_null();
}

std::vector<std::string> JsonFields::Keys() const {
  std::vector<std::string> keys;
  for (const auto& [key, value] : object_.items()) {
    if (!value.is_null()) keys.push_back(key);
  }
  return keys;
}

int JsonFields::Int(std::string_view key, int min, int max, std::optional<int> fallback) {
  const Json* value = Find(key);
  if (value == nullptr && fallback) return *fallback;
  // What is beyond 64 bits is read as a fraction.
  if (value == nullptr || !value->is_number_integer()) {
    FailType(key, absl::StrCat("an integer from ", min, " to ", max));
    return min;
  }
  const bool fits = value->is_number_unsigned() ? value->get<uint64_t>() <= INT32_MAX
                                                : value->get<int64_t>() >= INT32_MIN;
  if (fits && value->get<int64_t>() >= min && value->get<int64_t>() <= max) {
    return value->get<int>();
  }
  FailType(key, absl::StrCat("an integer from ", min, " to ", max));
  return min;
}

double JsonFields::Float(std::string_view key, double min, double max,
                         std::optional<double> fallback) {
  const Json* value = Find(key);
  if (value == nullptr && fallback) return *fallback;
  if (value != nullptr && value->is_number()) {
    const auto number = value->get<double>();
    if (number >= min && number <= max) return number;
  }
  FailType(key, absl::StrCat("a number from ", min, " to ", max));
  return min;
}

bool JsonFields::Bool(std::string_view key, bool fallback) {
  const Json* value = Find(key);
  if (value == nullptr) return fallback;
  if (value->is_boolean()) return value->get<bool>();
  FailType(key, "true or false");
  return fallback;
}

std::string JsonFields::String(std::string_view key, std::string_view fallback) {
  const Json* value = Find(key);
  if (value == nullptr) return std::string(fallback);
  if (value->is_string()) return value->get<std::string>();
  FailType(key, "a text");
  return std::string(fallback);
}

std::vector<double> JsonFields::Floats(std::string_view key, size_t count, double min, double max) {
  const Json* value = Find(key);
  std::vector<double> numbers;
  if (value != nullptr && value->is_array() && value->size() == count) {
    for (const Json& entry : *value) {
      if (!entry.is_number()) break;
      const auto number = entry.get<double>();
      if (!(number >= min && number <= max)) break;
      numbers.push_back(number);
    }
  }
  if (numbers.size() != count) {
    FailType(key, absl::StrCat("an array of ", count, " numbers from ", min, " to ", max));
  }
  numbers.resize(count, min);
  return numbers;
}

std::vector<std::string> JsonFields::Strings(std::string_view key, size_t count) {
  const Json* value = Find(key);
  std::vector<std::string> texts;
  if (value != nullptr && value->is_array() && value->size() == count) {
    for (const Json& entry : *value) {
      if (!entry.is_string()) break;
      texts.push_back(entry.get<std::string>());
    }
  }
  if (texts.size() != count) FailType(key, absl::StrCat("an array of ", count, " texts"));
  texts.resize(count);
  return texts;
}

JsonFields JsonFields::Object(std::string_view key) {
  const Json* value = Find(key);
  if (value != nullptr && !value->is_object()) FailType(key, "an object");
  JsonFields object(path_, value != nullptr && value->is_object() ? *value : EmptyObject(),
                    status_);
  object.prefix_ = absl::StrCat(prefix_, std::string(key), ".");
  return object;
}

const Json* JsonFields::Find(std::string_view key) const {
  const auto member = object_.find(std::string(key));
  return member == object_.end() || member->is_null() ? nullptr : &*member;
}

void JsonFields::Fail(absl::StatusCode code, std::string_view message) {
  if (status_.ok()) status_ = absl::Status(code, absl::StrCat(path_, ": ", std::string(message)));
}

void JsonFields::FailType(std::string_view key, std::string_view wanted) {
  constexpr size_t kShownBytes = 64;
  const Json* value = Find(key);
  if (value == nullptr) {
    Invalid(absl::StrCat(prefix_, std::string(key), " is missing"));
    return;
  }
  // Writing structures out recurses, and they may be deep.
  std::string shown = value->is_structured()
                          ? std::string("an ") + value->type_name()
                          : value->dump(-1, ' ', true, Json::error_handler_t::replace);
  if (shown.size() > kShownBytes) shown = shown.substr(0, kShownBytes) + "...";
  Invalid(
      absl::StrCat(prefix_, std::string(key), " is ", shown, "; it must be ", std::string(wanted)));
}

}  // namespace winnow
