#pragma once

#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "engine/base/check.h"
#include "kernels/block_copies.h"

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

  /// Queue copies of whole blocks to slots of the host tier (HostTier), and back: in order with all
  /// that reads and writes the blocks. Blocks differ from one another, and so do slots. If the
  /// device fails, the next step says so. REQUIRES: the memory has a host tier.
  virtual void Spill(std::span<const BlockInSlot> /*copies*/) { WINNOW_CHECK(false); }
  virtual void Fetch(std::span<const BlockInSlot> /*copies*/) { WINNOW_CHECK(false); }
};

}  // namespace winnow
