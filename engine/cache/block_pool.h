#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <utility>
#include <vector>

namespace winnow {

/// Counts who owns which KV block. It knows ids only: the memory behind them is a BlockMemory's.
///
/// A block is either free or has one or more owners; sequences own full blocks of a common prefix
/// together. Every owner gives up its share with Release, and the last one frees the block. A block
/// with several owners must not be written.
///
/// A kept block is free like others once nobody owns it, but holds on to its contents until it is
/// needed: of free blocks, kept ones are taken last, the one that was freed first before others.
class BlockPool {
 public:
  /// REQUIRES: blocks >= 0, block_tokens >= 1.
  BlockPool(int blocks, int block_tokens);

  int block_tokens() const { return block_tokens_; }
  int total_blocks() const { return static_cast<int>(blocks_.size()); }
  int free_blocks() const { return static_cast<int>(free_.size() + kept_.size()); }
  int used_blocks() const { return total_blocks() - free_blocks(); }

  /// Blocks that hold `tokens` tokens.
  int BlocksFor(int tokens) const { return (tokens + block_tokens_ - 1) / block_tokens_; }

  /// A free block, with one owner from now on. REQUIRES: free_blocks() > 0.
  int32_t Allocate();

  /// Adds an owner to a block that has one, or is kept.
  void Share(int32_t block);

  /// Takes one owner away; the block is free when none is left. REQUIRES: it has an owner.
  void Release(int32_t block);

  /// Keeps the contents of a block that has an owner, until it is allocated anew.
  void Keep(int32_t block);

  /// Sets what is called with a kept block that loses its contents because it is needed.
  void SetEvictionObserver(std::function<void(int32_t)> observer) {
    on_evicted_ = std::move(observer);
  }

  /// Whether the block's contents outlive its owners.
  bool kept(int32_t block) const { return blocks_[static_cast<size_t>(block)].kept; }
  /// Owners of the block; 0 when it is free.
  int owners(int32_t block) const { return blocks_[static_cast<size_t>(block)].owners; }

 private:
  struct Block {
    int owners = 0;
    bool kept = false;
    std::list<int32_t>::iterator place;  ///< in kept_, while it is kept and free
  };

  int block_tokens_;
  std::vector<Block> blocks_;
  std::vector<int32_t> free_;  ///< last freed is taken first: its memory is still in the caches
  std::list<int32_t> kept_;    ///< free, with their contents; first freed first
  std::function<void(int32_t)> on_evicted_;
};

}  // namespace winnow
