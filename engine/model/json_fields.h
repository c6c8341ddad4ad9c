#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"

namespace winnow {

/// Reads the members of a JSON object and checks their range. A member that is null is none. The
/// first failure sticks, whether in an object or in one within it: later reads yield their smallest
/// value, so that status() is checked once for many.
class JsonFields {
 public:
  /// `path` names the file in messages. REQUIRES: `object` is one, and outlives this; so does
  /// `status`, which keeps the first failure.
  JsonFields(std::string path, const nlohmann::json& object, absl::Status& status)
      : path_(std::move(path)), object_(object), status_(status) {}

  bool Has(std::string_view key) const;
  /// Whether the member is there, and null: Has it is not, then.
  bool IsNull(std::string_view key) const;

  /// Of all members that are there.
  std::vector<std::string> Keys() const;

  /// The integer under `key`, from `min` to `max`; when it is absent, `fallback` if there is one.
  int Int(std::string_view key, int min, int max, std::optional<int> fallback = std::nullopt);

  /// The same for numbers, integers among them.
  double Float(std::string_view key, double min, double max,
               std::optional<double> fallback = std::nullopt);

  bool Bool(std::string_view key, bool fallback);
  std::string String(std::string_view key, std::string_view fallback);

  /// An array of `count` numbers, each from `min` to `max`.
  std::vector<double> Floats(std::string_view key, size_t count, double min, double max);

  /// An array of `count` texts.
  std::vector<std::string> Strings(std::string_view key, size_t count);

  /// The object under `key`, an empty one when it is absent. Its failures are this one's.
  JsonFields Object(std::string_view key);

  /// INVALID_ARGUMENT or UNIMPLEMENTED with the file's name, unless there was a failure before.
  void Invalid(std::string_view message) { Fail(absl::StatusCode::kInvalidArgument, message); }
  void Unimplemented(std::string_view message) { Fail(absl::StatusCode::kUnimplemented, message); }

  const absl::Status& status() const { return status_; }

 private:
  const nlohmann::json* Find(std::string_view key) const;
  void Fail(absl::StatusCode code, std::string_view message);
  void FailType(std::string_view key, std::string_view wanted);

  std::string path_;
  std::string prefix_;  ///< of keys in messages: "rope_scaling."
  const nlohmann::json& object_;
  absl::Status& status_;
};

}  // namespace winnow
