#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/cache/block_memory.h"
#include "engine/cache/block_pool.h"
#include "engine/cache/kv_windows.h"
#include "engine/cache/prefix_cache.h"

namespace winnow {

/// Where one sequence's keys and values are: what the KvStore has given it. Empty at first.
class BlockTable {
 public:
  /// Of each group of layers: block ids in the order of positions, kNoBlock where they lie behind
  /// the group's windows.
  std::span<const std::vector<int32_t>> groups() const { return groups_; }
  /// Those of one group. REQUIRES: not empty.
  std::span<const int32_t> blocks(int group = 0) const {
    return groups_[static_cast<size_t>(group)];
  }
  bool empty() const { return groups_.empty(); }
  /// Blocks that it has, of all groups.
  int held() const;

 private:
  friend class KvStore;
  std::vector<std::vector<int32_t>> groups_;
  /// A block that is still kNoBlock, and the slot of the host tier that has its contents.
  struct Fetch {
    size_t group;
    size_t index;
    int32_t slot;
  };

  std::vector<int> first_;      ///< [groups]: those before are kNoBlock
  std::vector<Fetch> fetches_;  ///< of a prefix that was taken, until Extend
  PrefixPosition known_;        ///< what the prefix cache knows of the blocks
};

/// Which sequence's keys and values lie in which blocks: room, common prefixes, copies. It deals in
/// ids; the memory behind them, which the forward pass reads, is a BlockMemory's.
///
/// All groups of layers (KvWindows) take their blocks from one pool, so that room is one number
/// whatever a sequence's layers keep of it. A sequence has `computed` tokens when the next row that
/// is computed of it stands at that position.
///
/// Full blocks of a prefix that the device has lost may be known in the host tier (PrefixCache).
/// They need room like those that are to be computed, so that they come back when there is room for
/// all that a sequence needs.
///
/// Only blocks of which a sequence is the only owner may be written: those that TakePrefix and Fork
/// share are full.
class KvStore {
 public:
  /// A pool of so many blocks, and so many slots of the host tier. REQUIRES: `memory`, which has
  /// them, outlives the store; `windows` are of the same block_tokens.
  KvStore(int blocks, int block_tokens, const KvWindows& windows, BlockMemory& memory,
          int host_slots = 0);

  int block_tokens() const { return pool_.block_tokens(); }
  /// Groups of layers: so many blocks hold a block's tokens.
  int groups() const { return windows_.groups(); }
  int total_blocks() const { return pool_.total_blocks(); }
  int free_blocks() const { return pool_.free_blocks(); }
  int used_blocks() const { return pool_.used_blocks(); }
  const HostTier& host_tier() const { return prefix_cache_.host_tier(); }
  const HostTraffic& host_traffic() const { return prefix_cache_.host_traffic(); }

  /// Gives the empty table the blocks that are known to hold the first tokens of `tokens`, under
  /// the salt (see PrefixCache); those that the host tier has are fetched by the first Extend.
  /// Returns how many tokens they hold, of which the table is then computed.
  int TakePrefix(std::span<const int32_t> tokens, const std::string& salt, BlockTable& table);

  /// How many tokens TakePrefix would find.
  int KnownTokens(std::span<const int32_t> tokens, const std::string& salt) const;

  /// Blocks that Extend would take from the pool.
  int Missing(const BlockTable& table, int computed, int tokens) const;

  /// Makes the table hold `tokens` tokens: groups with windows those that the next step may compute
  /// (KvWindows::EndBlock). False, and nothing changes, if there is no room.
  bool Extend(BlockTable& table, int computed, int tokens);

  /// Takes back the blocks that lie behind the windows of all rows to come.
  void FreeBehind(BlockTable& table, int computed);

  /// Takes back the blocks that `tokens` tokens do not need.
  void Trim(BlockTable& table, int tokens);

  /// Lets others find the table's full blocks, which hold `tokens`. REQUIRES: it was called for all
  /// full blocks that FreeBehind has taken back, as long as it is at all.
  void Publish(BlockTable& table, std::span<const int32_t> tokens, const std::string& salt);

  /// Gives the empty `child` what `parent` holds of its first `tokens` tokens, which are all that
  /// it has computed: they share the full blocks and partly filled ones are copied. False, and
  /// nothing changes, if there is no room for the copies. An error means that the device failed.
  absl::StatusOr<bool> Fork(const BlockTable& parent, int tokens, BlockTable& child);

  /// Takes everything back. What is published outlives its owners until the room is needed.
  void Release(BlockTable& table);

  /// Blocks that would be free if all these were released.
  int FreeWithout(std::span<const BlockTable* const> tables) const;

  /// For tests, which watch accesses to blocks.
  const BlockPool& pool() const { return pool_; }

  /// Ends the process unless these tables own all used blocks, share none that may still be
  /// written, have given back what lies behind their windows, hold from `least` to `most` tokens,
  /// and wait for nothing from the host tier.
  struct Holding {
    const BlockTable* table;
    int computed;
    int least;
    int most;
  };
  void CheckInvariants(std::span<const Holding> holdings) const;

 private:
  void CheckExtent(const Holding& holding, int group) const;
  std::vector<int32_t> Allocate(int count);
  void Fetch(BlockTable& table, std::span<const int32_t> blocks);
  void LetFetchesGo(BlockTable& table);

  BlockPool pool_;
  const KvWindows windows_;
  PrefixCache prefix_cache_;
  BlockMemory& memory_;
};

}  // namespace winnow
