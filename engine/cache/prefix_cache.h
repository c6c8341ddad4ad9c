#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "engine/cache/block_memory.h"
#include "engine/cache/block_pool.h"
#include "engine/cache/host_tier.h"
#include "engine/cache/kv_windows.h"

namespace winnow {

/// Where a sequence stands in the prefix cache: how many of its first blocks the cache knows, and
/// the last of them.
struct PrefixPosition {
  int blocks = 0;
  int64_t last = 0;  ///< the cache's own; 0 before the first block, -1 if that is forgotten
};

/// Where the contents of a block are known to be.
struct KnownBlock {
  int32_t block = kNoBlock;  ///< on the device
  int32_t slot = kNoSlot;    ///< in the host tier

  bool known() const { return block != kNoBlock || slot != kNoSlot; }
};

/// What has gone to the host tier and come back, in blocks.
struct HostTraffic {
  int64_t spilled = 0;
  int64_t fetched = 0;
  int64_t dropped = 0;  ///< whose slots others needed
};

/// Finds full KV blocks by what they hold: the tokens of the block and all tokens before it.
/// Sequences whose prompts begin alike share those blocks, which are computed once. There is a
/// block for each group of layers (KvWindows); of groups with windows those that the windows still
/// reach are enough.
///
/// Blocks are compared by their tokens, not by hashes alone: no two prefixes are ever taken for one
/// another. Prefixes with different salts never meet, so that nobody can tell from the time to a
/// first token what others have asked. Blocks that nobody owns stay until the pool needs them. Then
/// they are spilled to the host tier, if it has slots, and are known until these are needed. What
/// has been fetched from there keeps its slot, so that it need not be spilled again.
class PrefixCache {
 public:
  /// With so many slots of the host tier. REQUIRES: `pool` and `windows` outlive the cache, and the
  /// pool has no other eviction observer.
  PrefixCache(BlockPool& pool, const KvWindows& windows, int host_slots);
  ~PrefixCache();
  PrefixCache(const PrefixCache&) = delete;
  PrefixCache& operator=(const PrefixCache&) = delete;

  /// [groups]: the blocks that hold the first tokens of `tokens`, in order: of as many full blocks
  /// as are known, so that the rows behind them find all that they see; not known() where they see
  /// nothing. Sets where a sequence stands that takes them. They have no new owner yet.
  std::vector<std::vector<KnownBlock>> Match(std::span<const int32_t> tokens,
                                             const std::string& salt,
                                             PrefixPosition* position) const;

  /// Takes note of blocks [groups] that are full now: those after `position`, with the keys and
  /// values of `block_tokens`. Moves the position on. Second blocks with the same contents are not
  /// kept.
  void Add(std::span<const int32_t> block_tokens, const std::string& salt,
           std::span<const int32_t> blocks, PrefixPosition* position);

  /// What the pool's blocks since the last call have held that is to be spilled, before anybody
  /// writes them.
  std::vector<BlockInSlot> TakeSpills();

  /// Takes note that the block, which has an owner, is to hold what the slot does. REQUIRES: the
  /// slot has been pinned since Match.
  void NoteFetch(const BlockInSlot& fetched);

  const HostTier& host_tier() const { return tier_; }
  /// To pin and unpin what is to be fetched.
  HostTier& mutable_host_tier() { return tier_; }
  const HostTraffic& host_traffic() const { return traffic_; }

  /// Ends the process unless every block and slot that is in use here is that of one entry.
  void CheckInvariants() const;

 private:
  struct Key {
    int64_t parent;    ///< the block before, 0 for the first
    std::string salt;  ///< of first blocks; others have their parents'
    std::vector<int32_t> tokens;
    bool operator==(const Key&) const = default;
  };
  struct KeyHash {
    size_t operator()(const Key& key) const;
  };
  struct Entry {
    int64_t id = 0;                  ///< never used twice
    std::vector<KnownBlock> blocks;  ///< [groups]
    int copies = 0;                  ///< of these, blocks and slots
    int followers = 0;               ///< entries whose parent this is
  };
  using Entries = std::unordered_map<Key, Entry, KeyHash>;
  struct Place {
    Entries::value_type* entry = nullptr;
    size_t group = 0;

    KnownBlock& known() const { return entry->second.blocks[group]; }
  };

  Key KeyOf(std::span<const int32_t> block_tokens, const std::string& salt, int64_t parent) const;
  Entries::value_type* EntryOf(Key key);
  void NoteBlock(const Place& place, int32_t block);
  void Evict(int32_t block);
  void Spill(int32_t block, const Place& place);
  void LoseCopy(Entries::value_type* entry);

  BlockPool& pool_;
  const KvWindows& windows_;
  Entries entries_;  ///< those with a block, and all before them
  std::unordered_map<int64_t, Entries::value_type*> by_id_;
  std::unordered_map<int32_t, Place> places_;  ///< of blocks
  HostTier tier_;
  std::vector<Place> slot_places_;               ///< [slots]
  std::unordered_map<int32_t, int32_t> spills_;  ///< to take; blocks by slot
  HostTraffic traffic_;
  int64_t last_id_ = 0;
};

}  // namespace winnow
