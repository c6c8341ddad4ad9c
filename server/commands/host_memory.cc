#include "server/commands/host_memory.h"

#include <unistd.h>

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/cache/file_memory.h"
#include "server/observability/log.h"

namespace winnow {
namespace {

constexpr absl::Duration kLogInterval = absl::Seconds(5);

absl::StatusOr<std::unique_ptr<Buffer>> Allocate(const ServeFlags& flags, int64_t bytes,
                                                 Backend& backend) {
  if (!flags.kv_host_file.empty()) {
    absl::StatusOr<std::unique_ptr<FileMemory>> memory =
        FileMemory::Create(flags.kv_host_file, bytes);
    if (!memory.ok()) return memory.status();
    return std::unique_ptr<Buffer>(*std::move(memory));
  }
  absl::Time next = absl::Now() + kLogInterval;
  return backend.AllocateHost(bytes, [&](int64_t done) {
    if (absl::Now() < next) return;
    next = absl::Now() + kLogInterval;
    Log(LogLevel::kInfo, "taking_host_memory", {{"bytes", done}, {"of_bytes", bytes}});
  });
}

}  // namespace

absl::Status CheckHostMemory(const ServeFlags& flags, int64_t memory_bytes) {
  if (!flags.kv_host_file.empty() && flags.device != "cpu") {
    return absl::InvalidArgumentError(
        absl::StrCat("--kv-host-file needs --device cpu: --device ", flags.device,
                     " has its host tier in memory that the device reaches"));
  }
  if (!flags.kv_host_file.empty() && flags.kv_host_bytes == 0) {
    return absl::InvalidArgumentError("--kv-host-file needs --kv-host-bytes, the file's size");
  }
  if (flags.kv_host_file.empty() && flags.kv_host_bytes > memory_bytes) {
    return absl::InvalidArgumentError(absl::StrCat("--kv-host-bytes ", flags.kv_host_bytes,
                                                   " is more than the machine's memory of ",
                                                   memory_bytes, " bytes"));
  }
  return absl::OkStatus();
}

int64_t MachineMemoryBytes() {
  return int64_t{sysconf(_SC_PHYS_PAGES)} * int64_t{sysconf(_SC_PAGESIZE)};
}

absl::StatusOr<int> TakeHostMemory(const ServeFlags& flags, Backend& backend, KvPools& pools) {
  if (flags.kv_host_bytes == 0) return 0;
  const int64_t slots = flags.kv_host_bytes / pools.slot_bytes();
  if (slots == 0) {
    return absl::InvalidArgumentError(absl::StrCat("--kv-host-bytes ", flags.kv_host_bytes,
                                                   " is less than the ", pools.slot_bytes(),
                                                   " bytes of one KV block"));
  }
  if (slots > kMostHostSlots) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--kv-host-bytes ", flags.kv_host_bytes, " would hold ", slots, " KV blocks of ",
        pools.slot_bytes(), " bytes; at most ", kMostHostSlots, " are kept account of"));
  }
  absl::StatusOr<std::unique_ptr<Buffer>> memory =
      Allocate(flags, slots * pools.slot_bytes(), backend);
  if (!memory.ok()) {
    const char* const flag = flags.kv_host_file.empty() ? "--kv-host-bytes" : "--kv-host-file";
    return absl::Status(memory.status().code(),
                        absl::StrCat(flag, ": ", std::string(memory.status().message())));
  }
  pools.SetHostMemory(*std::move(memory));
  return static_cast<int>(slots);
}

}  // namespace winnow
