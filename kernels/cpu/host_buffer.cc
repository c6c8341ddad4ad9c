#include "kernels/cpu/host_buffer.h"

#include <sys/mman.h>

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace winnow::cpu {
namespace {

constexpr int64_t kHugePageBytes = int64_t{2} << 20;

}  // namespace

absl::StatusOr<std::unique_ptr<HostBuffer>> HostBuffer::Create(int64_t bytes) {
  const bool large = bytes >= kHugePageBytes;
  const int64_t size = large ? bytes + kHugePageBytes : std::max<int64_t>(bytes, 1);
  void* const begin = mmap(nullptr, static_cast<size_t>(size), PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (begin == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrCat("no memory for a buffer of ", bytes, " bytes"));
  }
  auto* const first = static_cast<std::byte*>(begin);
  std::byte* data = first;
  if (large) {
    madvise(begin, static_cast<size_t>(size), MADV_HUGEPAGE);
    const auto address = static_cast<int64_t>(reinterpret_cast<uintptr_t>(first));
    data += (kHugePageBytes - address % kHugePageBytes) % kHugePageBytes;
  }
  return std::unique_ptr<HostBuffer>(
      new HostBuffer({first, static_cast<size_t>(size)}, data, bytes));
}

HostBuffer::~HostBuffer() { munmap(mapping_.data(), mapping_.size()); }

}  // namespace winnow::cpu
