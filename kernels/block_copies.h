#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace winnow {

/// A KV block in device memory, and the slot of host memory that has, or gets, a copy of it.
struct BlockInSlot {
  int32_t block = 0;
  int32_t slot = 0;
};

/// What one layer, or those of several groups that share memory, keep of blocks: that of block b
/// are the `bytes` bytes from data + b bytes on, a multiple of 16.
struct BlockPart {
  std::byte* data = nullptr;
  int64_t bytes = 0;
};

/// Whole blocks to copy between device and host. A slot has a block's parts one after the other,
/// slot s from slots + s slot_bytes() on.
struct BlockCopies {
  std::span<const BlockPart> parts;
  std::byte* slots = nullptr;  ///< of Backend::AllocateHost; any host memory on the CPU
  std::span<const BlockInSlot> copies = {};

  int64_t slot_bytes() const {
    int64_t bytes = 0;
    for (const BlockPart& part : parts) bytes += part.bytes;
    return bytes;
  }
};

}  // namespace winnow
