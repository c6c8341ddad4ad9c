#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "kernels/backend.h"

namespace winnow {

/// KV blocks of `block_bytes` each that fit into a device's memory, so that no more than `fraction`
/// of it is used; at most kMostTokensThatFit. RESOURCE_EXHAUSTED, with what is needed and what is
/// free, if none does.
absl::StatusOr<int> BlocksThatFit(const DeviceMemory& memory, double fraction, int64_t block_bytes,
                                  int block_tokens);

/// Tokens of a pool whose size is not given: more are hardly ever in use, and the host keeps
/// account of all blocks.
inline constexpr int kMostTokensThatFit = 1 << 24;

}  // namespace winnow
