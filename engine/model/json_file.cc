#include "engine/model/json_file.h"

#include <nlohmann/json.hpp>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/model/mapped_file.h"

namespace winnow {

absl::StatusOr<nlohmann::json> ParseJsonObject(const std::string& path, std::string_view text) {
  nlohmann::json json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (json.is_object()) return json;
  return absl::InvalidArgumentError(absl::StrCat(path, " holds no JSON object"));
}

absl::StatusOr<nlohmann::json> ReadJsonFile(const std::string& path, int64_t max_bytes) {
  const absl::StatusOr<MappedFile> file = MappedFile::Open(path);
  if (!file.ok()) return file.status();
  const auto bytes = static_cast<int64_t>(file->bytes().size());
  if (bytes > max_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " has ", bytes, " bytes; the limit is ", max_bytes));
  }
  return ParseJsonObject(
      path, {reinterpret_cast<const char*>(file->bytes().data()), file->bytes().size()});
}

}  // namespace winnow
