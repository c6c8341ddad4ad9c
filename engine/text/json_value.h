#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace winnow {

/// A value of a JSON file that others wrote, and where it stands. Reading what is not there, or is
/// of another type, gives a value of no meaning and notes the first such fault, for the reader to
/// return in the end.
class JsonValue {
 public:
  /// REQUIRES: `value` and `fault` outlive this object. `name` is what messages call the value.
  JsonValue(const nlohmann::json& value, std::string name, absl::Status& fault)
      : value_(&value), name_(std::move(name)), fault_(&fault) {}

  /// A member of an object; null where there is none, or this is null.
  JsonValue operator[](const char* key) const;
  /// Entry `i` of an array. REQUIRES: i < size().
  JsonValue At(size_t i) const;
  /// Entries of an array or object; 0, without a fault, of null.
  size_t size() const;

  bool IsNull() const { return value_->is_null(); }
  bool IsString() const { return value_->is_string(); }
  bool IsArray() const { return value_->is_array(); }
  bool IsObject() const { return value_->is_object(); }

  std::string String() const;
  bool Bool() const;
  int64_t Int() const;
  double Number() const;
  /// The same, where the value may be absent or null.
  std::string String(const char* fallback) const { return IsNull() ? fallback : String(); }
  bool Bool(bool fallback) const { return IsNull() ? fallback : Bool(); }

  /// Notes a fault: one sentence that begins with the value's name. Without the full stop.
  void Fault(std::string_view what) const;
  /// Notes that the file asks for what Winnow does not do.
  void Unsupported(std::string_view what) const;

  const nlohmann::json& json() const { return *value_; }
  const std::string& name() const { return name_; }

 private:
  void Note(absl::StatusCode code, std::string_view what) const;

  const nlohmann::json* value_;
  std::string name_;
  absl::Status* fault_;
};

/// What a JSON file holds. INVALID_ARGUMENT, naming the file, when it is no JSON.
absl::StatusOr<nlohmann::json> ParseJson(std::string_view text, std::string_view file_name);

}  // namespace winnow
