#pragma once

#include <cstdint>

#include "absl/status/status.h"

namespace winnow {

/// A copy of KV that a fork asks for: the first `tokens` tokens of block `from` to block `to`.
struct BlockCopy {
  int32_t from = 0;
  int32_t to = 0;
  int tokens = 0;
};

/// The memory behind KV blocks, for those who know only their ids.
class BlockMemory {
 public:
  virtual ~BlockMemory() = default;

  /// Copies in every layer, labels included. An error means that the device failed.
  virtual absl::Status Copy(const BlockCopy& copy) = 0;
};

}  // namespace winnow
