#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace winnow {

/// Counts who owns which KV block. It knows ids only: the memory behind them belongs to the model.
///
/// A block is either free or has one or more owners; forked sequences own full blocks together.
/// Every owner gives up its share with Release, and the last one frees the block. A block with
/// several owners must not be written.
class BlockPool {
 public:
  /// REQUIRES: blocks >= 0, block_tokens >= 1.
  BlockPool(int blocks, int block_tokens);

  int block_tokens() const { return block_tokens_; }
  int total_blocks() const { return static_cast<int>(owners_.size()); }
  int free_blocks() const { return static_cast<int>(free_.size()); }
  int used_blocks() const { return total_blocks() - free_blocks(); }

  /// Blocks that hold `tokens` tokens.
  int BlocksFor(int tokens) const { return (tokens + block_tokens_ - 1) / block_tokens_; }

  /// A free block, with one owner from now on. REQUIRES: free_blocks() > 0.
  int32_t Allocate();

  /// Adds an owner to a block that has one.
  void Share(int32_t block);

  /// Takes one owner away; the block is free when none is left. REQUIRES: it has an owner.
  void Release(int32_t block);

  /// Owners of the block; 0 when it is free.
  int owners(int32_t block) const { return owners_[static_cast<size_t>(block)]; }

 private:
  int block_tokens_;
  std::vector<int> owners_;    ///< [blocks]
  std::vector<int32_t> free_;  ///< last freed is taken first: its memory is still in the caches
};

}  // namespace winnow
