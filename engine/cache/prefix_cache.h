#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "engine/cache/block_pool.h"

namespace winnow {

/// Where a sequence stands in the prefix cache: how many of its first blocks the cache knows, and
/// the last of them.
struct PrefixPosition {
  int blocks = 0;
  int64_t last = 0;  ///< the cache's own; 0 before the first block
};

/// Finds full KV blocks by what they hold: the tokens of the block and all tokens before it.
/// Sequences whose prompts begin alike share those blocks, which are computed once.
///
/// Blocks are compared by their tokens, not by hashes alone: no two prefixes are ever taken for one
/// another. Prefixes with different salts never meet, so that nobody can tell from the time to a
/// first token what others have asked. Blocks that nobody owns stay until the pool needs them.
class PrefixCache {
 public:
  /// REQUIRES: `pool` outlives the cache, and has no other eviction observer.
  explicit PrefixCache(BlockPool& pool);
  ~PrefixCache();
  PrefixCache(const PrefixCache&) = delete;
  PrefixCache& operator=(const PrefixCache&) = delete;

  /// The blocks that hold the first tokens of `tokens`, in order: as many full blocks as are known.
  /// Sets where a sequence stands that takes them. They have no new owner yet.
  std::vector<int32_t> Match(std::span<const int32_t> tokens, const std::string& salt,
                             PrefixPosition* position) const;

  /// Takes note of a block that is full now: the one after `position`, with the keys and values of
  /// `block_tokens`. Moves the position on. A second block with the same contents is not kept.
  void Add(std::span<const int32_t> block_tokens, const std::string& salt, int32_t block,
           PrefixPosition* position);

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
    int64_t id;  ///< never used twice, so that what followed an evicted block is not found
    int32_t block;
  };

  Key KeyOf(std::span<const int32_t> block_tokens, const std::string& salt, int64_t parent) const;

  BlockPool& pool_;
  std::unordered_map<Key, Entry, KeyHash> entries_;
  std::unordered_map<int32_t, Key> keys_;  ///< of blocks
  int64_t last_id_ = 0;
};

}  // namespace winnow
