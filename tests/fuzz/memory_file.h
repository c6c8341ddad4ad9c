#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "engine/base/check.h"

namespace winnow {

/// A file in memory, for readers that take a path. Kept and rewritten from input to input, since
/// making one takes longer than most of what is tested.
class MemoryFile {
 public:
  MemoryFile() : descriptor_(memfd_create("input", MFD_CLOEXEC)) { WINNOW_CHECK(descriptor_ >= 0); }
  ~MemoryFile() { close(descriptor_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  /// Replaces the contents.
  void Set(std::span<const std::byte> bytes) {
    const auto size = static_cast<ssize_t>(bytes.size());
    WINNOW_CHECK(ftruncate(descriptor_, 0) == 0);
    WINNOW_CHECK(pwrite(descriptor_, bytes.data(), bytes.size(), 0) == size);
  }

  std::string path() const { return "/proc/self/fd/" + std::to_string(descriptor_); }

 private:
  int descriptor_;
};

}  // namespace winnow
