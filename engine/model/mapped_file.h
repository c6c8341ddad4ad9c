#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "absl/status/statusor.h"

namespace winnow {

/// A file of a model, mapped read-only: only what is touched is read.
class MappedFile {
 public:
  /// NOT_FOUND when there is none, INVALID_ARGUMENT when it is empty or no regular file, else the
  /// system's error; all name the path.
  static absl::StatusOr<MappedFile> Open(const std::string& path);

  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  /// Stay where they are when this object is moved.
  std::span<const std::byte> bytes() const { return bytes_; }

  /// Tells the kernel that the pages are not needed for now; they are read again from the file on
  /// the next access.
  void ReleasePages() const;

 private:
  explicit MappedFile(std::span<const std::byte> bytes) : bytes_(bytes) {}

  std::span<const std::byte> bytes_;  ///< of nothing once moved from
};

}  // namespace winnow
