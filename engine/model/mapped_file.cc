#include "engine/model/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace winnow {
namespace {

absl::Status SystemError(const std::string& path, const char* action, int error) {
  const absl::Status status = absl::ErrnoToStatus(error, action);
  return absl::Status(status.code(), absl::StrCat(path, ": ", std::string(status.message())));
}

/// Maps an open file.
absl::StatusOr<std::span<const std::byte>> Map(const std::string& path, int descriptor) {
  struct stat info = {};
  if (fstat(descriptor, &info) != 0) {
    return SystemError(path, "cannot read the model file's size", errno);
  }
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is not a regular file"));
  }
  if (info.st_size == 0) return absl::InvalidArgumentError(absl::StrCat(path, " is empty"));
  const auto bytes = static_cast<size_t>(info.st_size);
  void* data = mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, descriptor, 0);
  if (data == MAP_FAILED) return SystemError(path, "cannot map the model file", errno);
  return std::span(static_cast<const std::byte*>(data), bytes);
}

void* MutableStart(std::span<const std::byte> bytes) {
  return const_cast<std::byte*>(bytes.data());  // as munmap and madvise want it
}

}  // namespace

absl::StatusOr<MappedFile> MappedFile::Open(const std::string& path) {
  // Without O_NONBLOCK, opening a named pipe would wait for a writer.
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) return SystemError(path, "cannot open the model file", errno);
  const absl::StatusOr<std::span<const std::byte>> bytes = Map(path, descriptor);
  close(descriptor);
  if (!bytes.ok()) return bytes.status();
  return MappedFile(*bytes);
}

MappedFile::MappedFile(MappedFile&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(bytes_, other.bytes_);
  return *this;
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) munmap(MutableStart(bytes_), bytes_.size());
}

void MappedFile::ReleasePages() const {
  madvise(MutableStart(bytes_), bytes_.size(), MADV_DONTNEED);
}

}  // namespace winnow
