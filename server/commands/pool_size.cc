#include "server/commands/pool_size.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace winnow {

absl::StatusOr<int> BlocksThatFit(const DeviceMemory& memory, double fraction, int64_t block_bytes,
                                  int block_tokens) {
  const auto usable = static_cast<int64_t>(fraction * static_cast<double>(memory.total));
  const int64_t used = memory.total - memory.free;
  const int64_t blocks = std::max<int64_t>(0, usable - used) / block_bytes;
  if (blocks == 0) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "a KV block needs ", block_bytes, " bytes, but ", used, " of the device's ", memory.total,
        " are in use and --memory-fraction ", fraction, " lets ", usable, " be used"));
  }
  return static_cast<int>(std::min<int64_t>(blocks, kMostTokensThatFit / block_tokens));
}

}  // namespace winnow
