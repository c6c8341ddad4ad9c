#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/cache/block_memory.h"
#include "engine/cache/block_pool.h"
#include "engine/cache/prefix_cache.h"

namespace winnow {

/// Where one sequence's keys and values are: what the KvStore has given it. Empty at first.
class BlockTable {
 public:
  /// Block ids in the order of positions.
  std::span<const int32_t> blocks() const { return blocks_; }
  bool empty() const { return blocks_.empty(); }

 private:
  friend class KvStore;
  std::vector<int32_t> blocks_;
  PrefixPosition known_;  ///< what the prefix cache knows of the blocks
};

/// Which sequence's keys and values lie in which blocks: room, common prefixes, copies. It deals in
/// ids; the memory behind them, which the forward pass reads, is a BlockMemory's.
///
/// Only blocks of which a sequence is the only owner may be written: those that TakePrefix and Fork
/// share are full.
class KvStore {
 public:
  /// REQUIRES: `memory`, which has so many blocks, outlives the store.
  KvStore(int blocks, int block_tokens, BlockMemory& memory);

  int block_tokens() const { return pool_.block_tokens(); }
  int total_blocks() const { return pool_.total_blocks(); }
  int free_blocks() const { return pool_.free_blocks(); }
  int used_blocks() const { return pool_.used_blocks(); }
  /// Blocks that hold `tokens` tokens.
  int BlocksFor(int tokens) const { return pool_.BlocksFor(tokens); }

  /// Gives the empty table the blocks that are known to hold the first tokens of `tokens`, under
  /// the salt (see PrefixCache). Returns how many tokens they hold.
  int TakePrefix(std::span<const int32_t> tokens, const std::string& salt, BlockTable& table);

  /// How many tokens TakePrefix would find.
  int KnownTokens(std::span<const int32_t> tokens, const std::string& salt) const;

  /// Makes the table hold `tokens` tokens. False, and nothing changes, if there is no room.
  bool Extend(BlockTable& table, int tokens);

  /// Takes back the blocks that `tokens` tokens do not need.
  void Trim(BlockTable& table, int tokens);

  /// Lets others find the table's full blocks, which hold `tokens`.
  void Publish(BlockTable& table, std::span<const int32_t> tokens, const std::string& salt);

  /// Gives the empty `child` what `parent` holds of its first `tokens` tokens: they share the full
  /// blocks and a partly filled one is copied. False, and nothing changes, if there is no room for
  /// the copy. An error means that the device failed.
  absl::StatusOr<bool> Fork(const BlockTable& parent, int tokens, BlockTable& child);

  /// Takes everything back. What is published outlives its owners until the room is needed.
  void Release(BlockTable& table);

  /// Blocks that would be free if all these were released.
  int FreeWithout(std::span<const BlockTable* const> tables) const;

  /// For tests, which watch accesses to blocks.
  const BlockPool& pool() const { return pool_; }

  /// Ends the process unless these tables, of which each holds `computed` tokens, own all used
  /// blocks, and share none that may still be written.
  struct Holding {
    const BlockTable* table;
    int computed;
  };
  void CheckInvariants(std::span<const Holding> holdings) const;

 private:
  BlockPool pool_;
  PrefixCache prefix_cache_;
  BlockMemory& memory_;
};

}  // namespace winnow
