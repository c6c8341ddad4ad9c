#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/model/gguf.h"

namespace winnow {

/// Reads the metadata of one architecture and checks its range. The first failure sticks: later
/// reads yield their smallest value, so that status() is checked once for many.
class MetadataFields {
 public:
  /// REQUIRES: `file` outlives this object.
  MetadataFields(const GgufFile& file, std::string_view architecture);

  /// The integer under `key`, from `min` to `max`; when it is absent, `fallback` if there is one.
  int Int(std::string_view key, int min, int max, std::optional<int> fallback = std::nullopt);

  /// The same for numbers.
  double Float(std::string_view key, double min, double max,
               std::optional<double> fallback = std::nullopt);

  /// The text under `key`, or `fallback`.
  std::string String(std::string_view key, std::string_view fallback);

  bool Has(std::string_view key) const;

  /// "ARCHITECTURE.key", as the file names it.
  std::string FullKey(std::string_view key) const;

  /// INVALID_ARGUMENT names the first key that is missing, of another type or out of range.
  const absl::Status& status() const { return status_; }

 private:
  template <typename T>
  T Checked(std::string_view key, const absl::StatusOr<T>& value, T min, T max);
  void Fail(absl::Status status);

  const GgufFile& file_;
  const std::string architecture_;
  absl::Status status_;
};

}  // namespace winnow
