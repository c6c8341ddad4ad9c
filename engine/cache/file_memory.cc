#include "engine/cache/file_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace winnow {
namespace {

absl::Status NoRoom(const std::string& path, int64_t bytes, int descriptor) {
  struct statvfs system = {};
  fstatvfs(descriptor, &system);  // an error leaves nothing free
  const auto free = static_cast<int64_t>(system.f_bavail) * static_cast<int64_t>(system.f_frsize);
  return absl::ResourceExhaustedError(absl::StrCat(path, " needs ", bytes, " bytes, of which ",
                                                   free, " are free in its file system"));
}

absl::StatusOr<std::byte*> Map(const std::string& path, int64_t bytes, int descriptor) {
  // Room that turned out to be missing later would end the process.
  const int error = posix_fallocate(descriptor, 0, static_cast<off_t>(bytes));
  if (error == ENOSPC || error == EFBIG) return NoRoom(path, bytes, descriptor);
  if (error != 0) return absl::ErrnoToStatus(error, absl::StrCat("can't take room for ", path));
  void* const data =
      mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  if (data == MAP_FAILED) return absl::ErrnoToStatus(errno, absl::StrCat("can't map ", path));
  return static_cast<std::byte*>(data);
}

}  // namespace

absl::StatusOr<std::unique_ptr<FileMemory>> FileMemory::Create(const std::string& path,
                                                               int64_t bytes) {
  const int descriptor = open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (descriptor < 0) return absl::ErrnoToStatus(errno, absl::StrCat("can't make ", path));
  const absl::StatusOr<std::byte*> data = Map(path, bytes, descriptor);
  unlink(path.c_str());
  close(descriptor);
  if (!data.ok()) return data.status();
  return std::unique_ptr<FileMemory>(new FileMemory(*data, bytes));
}

FileMemory::~FileMemory() { munmap(data_, static_cast<size_t>(bytes_)); }

}  // namespace winnow
