#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/cache/kv_pools.h"
#include "kernels/backend.h"
#include "server/commands/serve_flags.h"

namespace winnow {

/// Slots that the host tier may have: of each, some hundred bytes are kept account of.
inline constexpr int kMostHostSlots = 1 << 24;

/// What can be said of --kv-host-bytes and --kv-host-file before the model is loaded.
/// INVALID_ARGUMENT names the flag and what it conflicts with: flags, or a machine with
/// `memory_bytes` of memory.
absl::Status CheckHostMemory(const ServeFlags& flags, int64_t memory_bytes);

/// Bytes of memory that this machine has.
int64_t MachineMemoryBytes();

/// Gives the pools the host tier of the flags, if they want one, and logs how far that has come
/// where it takes long. Returns its slots, 0 for none. INVALID_ARGUMENT if --kv-host-bytes
/// make no slot or too many; other errors name the flag for whose memory there is no room.
absl::StatusOr<int> TakeHostMemory(const ServeFlags& flags, Backend& backend, KvPools& pools);

}  // namespace winnow
