#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/backend.h"

namespace winnow {

/// Memory that the system keeps in a file, and in main memory as much of it as there is room for.
/// The file loses its name as soon as it is mapped, so that it goes when this does, however the
/// process ends; until then nobody but its owner may read it.
class FileMemory : public Buffer {
 public:
  /// Zeroed memory in a new file. ALREADY_EXISTS if there is one, RESOURCE_EXHAUSTED if the file
  /// system has no room for all of it, else the system's error.
  static absl::StatusOr<std::unique_ptr<FileMemory>> Create(const std::string& path, int64_t bytes);

  ~FileMemory() override;
  FileMemory(const FileMemory&) = delete;
  FileMemory& operator=(const FileMemory&) = delete;

  std::byte* data() override { return data_; }
  int64_t bytes() const override { return bytes_; }

 private:
  FileMemory(std::byte* data, int64_t bytes) : data_(data), bytes_(bytes) {}

  std::byte* const data_;
  const int64_t bytes_;
};

}  // namespace winnow
