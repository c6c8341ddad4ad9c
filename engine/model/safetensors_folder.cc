#include "engine/model/safetensors_folder.h"

#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "engine/model/json_file.h"

namespace winnow {
namespace {

constexpr char kSingleFile[] = "model.safetensors";
constexpr char kIndex[] = "model.safetensors.index.json";
constexpr int64_t kMaxIndexBytes = 64 << 20;

template <typename... Parts>
absl::Status Invalid(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

/// Of a file in the same folder: no path leads elsewhere.
bool IsFileName(const std::string& name) {
  return name.ends_with(".safetensors") && name.find('/') == std::string::npos &&
         name.find('\0') == std::string::npos;
}

/// The index's weight_map: the file of each tensor, by the tensor's name.
absl::StatusOr<std::map<std::string, std::string>> ReadIndex(const std::string& path) {
  const absl::StatusOr<nlohmann::json> index = ReadJsonFile(path, kMaxIndexBytes);
  if (!index.ok()) return index.status();
  const auto weights = index->find("weight_map");
  if (weights == index->end() || !weights->is_object() || weights->empty()) {
    return Invalid(path, " has no weight_map");
  }
  std::map<std::string, std::string> file_of;
  for (const auto& [tensor, file] : weights->items()) {
    if (!file.is_string() || !IsFileName(file.get_ref<const std::string&>())) {
      return Invalid(path, " has in its weight_map for ", absl::CHexEscape(tensor),
                     " no name of a safetensors file in its folder");
    }
    file_of.emplace(absl::CHexEscape(tensor), file.get_ref<const std::string&>());
  }
  return file_of;
}

}  // namespace

absl::StatusOr<SafetensorsFolder> SafetensorsFolder::Open(const std::string& folder) {
  const std::filesystem::path parent(folder);
  SafetensorsFolder weights;
  const std::string index = (parent / kIndex).string();
  std::error_code error;
  if (!std::filesystem::exists(index, error)) {
    const absl::Status status = weights.Add((parent / kSingleFile).string(), nullptr);
    if (absl::IsNotFound(status)) {
      return absl::NotFoundError(absl::StrCat(folder, " holds neither ", kIndex, " nor ",
                                              kSingleFile, ", the weights of a model"));
    }
    if (!status.ok()) return status;
    return weights;
  }
  const absl::StatusOr<std::map<std::string, std::string>> file_of = ReadIndex(index);
  if (!file_of.ok()) return file_of.status();
  std::set<std::string> files;
  for (const auto& [tensor, file] : *file_of) files.insert(file);
  for (const std::string& file : files) {
    const absl::Status status = weights.Add((parent / file).string(), &*file_of);
    if (!status.ok()) return status;
  }
  for (const auto& [tensor, file] : *file_of) {
    if (!weights.tensors_.contains(tensor)) {
      return Invalid((parent / file).string(), " lacks the tensor ", tensor, ", which ", kIndex,
                     " places there");
    }
  }
  return weights;
}

absl::Status SafetensorsFolder::Add(const std::string& path,
                                    const std::map<std::string, std::string>* file_of) {
  absl::StatusOr<MappedFile> file = MappedFile::Open(path);
  if (!file.ok()) return file.status();
  absl::StatusOr<std::vector<SafetensorsTensor>> tensors = ParseSafetensors(file->bytes());
  if (!tensors.ok()) return Invalid(path, " ", std::string(tensors.status().message()));
  files_.push_back(*std::move(file));
  const std::string name = std::filesystem::path(path).filename().string();
  for (SafetensorsTensor& tensor : *tensors) {
    if (file_of != nullptr) {
      const auto placed = file_of->find(tensor.name);
      if (placed == file_of->end() || placed->second != name) {
        return Invalid(path, " has the tensor ", tensor.name, ", which ", kIndex,
                       " does not place there");
      }
    }
    std::string key = tensor.name;
    tensors_.emplace(std::move(key), std::move(tensor));
  }
  return absl::OkStatus();
}

int64_t SafetensorsFolder::file_bytes() const {
  int64_t bytes = 0;
  for (const MappedFile& file : files_) bytes += static_cast<int64_t>(file.bytes().size());
  return bytes;
}

void SafetensorsFolder::ReleasePages() const {
  for (const MappedFile& file : files_) file.ReleasePages();
}

}  // namespace winnow
