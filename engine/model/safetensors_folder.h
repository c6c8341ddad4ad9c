#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/model/mapped_file.h"
#include "engine/model/safetensors.h"

namespace winnow {

/// The safetensors files of a Hugging Face folder, mapped.
class SafetensorsFolder {
 public:
  /// Opens model.safetensors.index.json with the files that it names, or model.safetensors.
  /// NOT_FOUND when there is neither or a file is missing, INVALID_ARGUMENT when a file is
  /// malformed or does not hold just the tensors that the index says; all name the file.
  static absl::StatusOr<SafetensorsFolder> Open(const std::string& folder);

  /// By the names that the files give them.
  const std::map<std::string, SafetensorsTensor, std::less<>>& tensors() const { return tensors_; }

  /// Of all files.
  int64_t file_bytes() const;

  void ReleasePages() const;

 private:
  absl::Status Add(const std::string& path, const std::map<std::string, std::string>* file_of);

  std::vector<MappedFile> files_;
  std::map<std::string, SafetensorsTensor, std::less<>> tensors_;
};

}  // namespace winnow
