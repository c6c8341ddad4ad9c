#include "engine/model/metadata_fields.h"

#include <cstdint>
#include <utility>

#include "absl/strings/str_cat.h"

namespace winnow {

MetadataFields::MetadataFields(const GgufFile& file, std::string_view architecture)
    : file_(file), architecture_(architecture) {}

int MetadataFields::Int(std::string_view key, int min, int max, std::optional<int> fallback) {
  const absl::StatusOr<int64_t> value = file_.GetInt(FullKey(key));
  if (absl::IsNotFound(value.status()) && fallback) return *fallback;
  return static_cast<int>(Checked<int64_t>(key, value, min, max));
}

double MetadataFields::Float(std::string_view key, double min, double max,
                             std::optional<double> fallback) {
  const absl::StatusOr<double> value = file_.GetFloat(FullKey(key));
  if (absl::IsNotFound(value.status()) && fallback) return *fallback;
  return Checked<double>(key, value, min, max);
}

std::string MetadataFields::String(std::string_view key, std::string_view fallback) {
  absl::StatusOr<std::string> value = file_.GetString(FullKey(key));
  if (value.ok()) return *std::move(value);
  if (!absl::IsNotFound(value.status())) Fail(value.status());
  return std::string(fallback);
}

bool MetadataFields::Has(std::string_view key) const {
  return file_.metadata().contains(FullKey(key));
}

std::string MetadataFields::FullKey(std::string_view key) const {
  return absl::StrCat(architecture_, ".", std::string(key));
}

template <typename T>
T MetadataFields::Checked(std::string_view key, const absl::StatusOr<T>& value, T min, T max) {
  if (value.ok() && *value >= min && *value <= max) return *value;  // never for NaN
  Fail(absl::InvalidArgumentError(value.ok() ? absl::StrCat(file_.path(), ": metadata key ",
                                                            FullKey(key), " is ", *value,
                                                            "; it must be from ", min, " to ", max)
                                             : std::string(value.status().message())));
  return min;
}

void MetadataFields::Fail(absl::Status status) {
  if (status_.ok()) status_ = std::move(status);
}

}  // namespace winnow
