#include "engine/cache/kv_store.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "engine/base/check.h"

namespace winnow {

int BlockTable::held() const {
  int held = 0;
  for (size_t g = 0; g < groups_.size(); ++g) {
    held += static_cast<int>(groups_[g].size()) - first_[g];
  }
  return held - static_cast<int>(fetches_.size());
}

KvStore::KvStore(int blocks, int block_tokens, const KvWindows& windows, BlockMemory& memory,
                 int host_slots)
    : pool_(blocks, block_tokens),
      windows_(windows),
      prefix_cache_(pool_, windows_, host_slots),
      memory_(memory) {}

int KvStore::TakePrefix(std::span<const int32_t> tokens, const std::string& salt,
                        BlockTable& table) {
  WINNOW_CHECK(table.empty());
  const std::vector<std::vector<KnownBlock>> known =
      prefix_cache_.Match(tokens, salt, &table.known_);
  if (table.known_.blocks == 0) return 0;
  const int computed = table.known_.blocks * pool_.block_tokens();
  for (size_t g = 0; g < known.size(); ++g) {
    table.first_.push_back(windows_.FirstBlock(static_cast<int>(g), computed));
    std::vector<int32_t>& blocks = table.groups_.emplace_back();
    for (const auto& [block, slot] : known[g]) {
      blocks.push_back(block);
      if (block != kNoBlock) {
        pool_.Share(block);
      } else if (slot != kNoSlot) {
        prefix_cache_.mutable_host_tier().Pin(slot);
        table.fetches_.push_back({g, blocks.size() - 1, slot});
      }
    }
  }
  std::ranges::stable_sort(table.fetches_, {}, &BlockTable::Fetch::index);
  return computed;
}

int KvStore::KnownTokens(std::span<const int32_t> tokens, const std::string& salt) const {
  PrefixPosition known;
  prefix_cache_.Match(tokens, salt, &known);
  return known.blocks * pool_.block_tokens();
}

int KvStore::Missing(const BlockTable& table, int computed, int tokens) const {
  auto missing = static_cast<int>(table.fetches_.size());
  for (int g = 0; g < groups(); ++g) {
    const int has = table.empty() ? 0 : static_cast<int>(table.blocks(g).size());
    missing += std::max(0, windows_.EndBlock(g, computed, tokens) - has);
  }
  return missing;
}

bool KvStore::Extend(BlockTable& table, int computed, int tokens) {
  const int missing = Missing(table, computed, tokens);
  if (missing > pool_.free_blocks()) return false;
  table.groups_.resize(static_cast<size_t>(groups()));
  table.first_.resize(table.groups_.size());
  const std::vector<int32_t> taken = Allocate(missing);
  size_t next = table.fetches_.size();
  Fetch(table, std::span(taken).first(next));
  for (int g = 0; g < groups(); ++g) {
    std::vector<int32_t>& blocks = table.groups_[static_cast<size_t>(g)];
    const int end = windows_.EndBlock(g, computed, tokens);
    while (static_cast<int>(blocks.size()) < end) blocks.push_back(taken[next++]);
  }
  return true;
}

// Blocks of the pool, when what they held that is still wanted is on its way to the host tier.
std::vector<int32_t> KvStore::Allocate(int count) {
  std::vector<int32_t> blocks(static_cast<size_t>(count));
  for (int32_t& block : blocks) block = pool_.Allocate();
  const std::vector<BlockInSlot> spills = prefix_cache_.TakeSpills();
  if (!spills.empty()) memory_.Spill(spills);
  return blocks;
}

// Gives the table's fetches these blocks.
void KvStore::Fetch(BlockTable& table, std::span<const int32_t> blocks) {
  if (blocks.empty()) return;
  std::vector<BlockInSlot> copies;
  for (size_t i = 0; i < blocks.size(); ++i) {
    const auto& [group, index, slot] = table.fetches_[i];
    table.groups_[group][index] = blocks[i];
    copies.push_back({blocks[i], slot});
    prefix_cache_.NoteFetch(copies.back());
  }
  memory_.Fetch(copies);
  LetFetchesGo(table);
}

// The last ones first, so that of a prefix the end leaves the host tier before the start.
void KvStore::LetFetchesGo(BlockTable& table) {
  for (; !table.fetches_.empty(); table.fetches_.pop_back()) {
    prefix_cache_.mutable_host_tier().Unpin(table.fetches_.back().slot);
  }
}

void KvStore::FreeBehind(BlockTable& table, int computed) {
  for (size_t g = 0; g < table.groups_.size(); ++g) {
    const int first = windows_.FirstBlock(static_cast<int>(g), computed);
    for (int& i = table.first_[g]; i < first; ++i) {
      int32_t& block = table.groups_[g][static_cast<size_t>(i)];
      pool_.Release(block);
      block = kNoBlock;
    }
  }
}

void KvStore::Trim(BlockTable& table, int tokens) {
  const auto end = static_cast<size_t>(pool_.BlocksFor(tokens));
  for (std::vector<int32_t>& blocks : table.groups_) {
    for (; blocks.size() > end; blocks.pop_back()) pool_.Release(blocks.back());
  }
}

void KvStore::Publish(BlockTable& table, std::span<const int32_t> tokens, const std::string& salt) {
  const auto size = static_cast<size_t>(pool_.block_tokens());
  const size_t full = tokens.size() / size;
  for (auto i = static_cast<size_t>(table.known_.blocks); i < full; ++i) {
    std::vector<int32_t> blocks;
    for (const std::vector<int32_t>& group : table.groups_) blocks.push_back(group[i]);
    prefix_cache_.Add(tokens.subspan(i * size, size), salt, blocks, &table.known_);
  }
}

absl::StatusOr<bool> KvStore::Fork(const BlockTable& parent, int tokens, BlockTable& child) {
  WINNOW_CHECK(child.empty() && parent.fetches_.empty());
  const auto shared = static_cast<size_t>(tokens / pool_.block_tokens());
  const int last_tokens = tokens % pool_.block_tokens();
  if (last_tokens > 0 && pool_.free_blocks() < groups()) return false;
  child = parent;
  for (size_t g = 0; g < child.groups_.size(); ++g) {
    std::vector<int32_t>& blocks = child.groups_[g];
    blocks.resize(shared);
    for (auto i = static_cast<size_t>(child.first_[g]); i < shared; ++i) pool_.Share(blocks[i]);
  }
  if (last_tokens == 0) return true;
  const std::vector<int32_t> taken = Allocate(groups());
  for (size_t g = 0; g < child.groups_.size(); ++g) {
    child.groups_[g].push_back(taken[g]);
    const absl::Status status =
        memory_.Copy({parent.groups_[g][shared], child.groups_[g].back(), last_tokens});
    if (!status.ok()) return status;
  }
  return true;
}

void KvStore::Release(BlockTable& table) {
  LetFetchesGo(table);
  // The last ones first, so that of a prefix that is kept the end is overwritten before the start.
  size_t most = 0;
  for (const std::vector<int32_t>& blocks : table.groups_) most = std::max(most, blocks.size());
  for (size_t i = most; i-- > 0;) {
    for (const std::vector<int32_t>& blocks : table.groups_) {
      if (i < blocks.size() && blocks[i] != kNoBlock) pool_.Release(blocks[i]);
    }
  }
  table = {};
}

int KvStore::FreeWithout(std::span<const BlockTable* const> tables) const {
  int free = pool_.free_blocks();
  std::unordered_map<int32_t, int> owners;  // of blocks, among the tables
  for (const BlockTable* table : tables) {
    for (const std::vector<int32_t>& blocks : table->groups_) {
      for (const int32_t block : blocks) {
        if (block != kNoBlock && ++owners[block] == pool_.owners(block)) ++free;
      }
    }
  }
  return free;
}

void KvStore::CheckInvariants(std::span<const Holding> holdings) const {
  std::vector<int> owners(static_cast<size_t>(pool_.total_blocks()), 0);
  for (const Holding& holding : holdings) {
    WINNOW_CHECK(holding.table->fetches_.empty());
    for (int g = 0; g < groups(); ++g) {
      CheckExtent(holding, g);
      const std::span<const int32_t> blocks = holding.table->blocks(g);
      for (size_t i = 0; i < blocks.size(); ++i) {
        if (blocks[i] == kNoBlock) continue;
        ++owners[static_cast<size_t>(blocks[i])];
        const bool full = static_cast<int>(i + 1) * pool_.block_tokens() <= holding.computed;
        WINNOW_CHECK(full || pool_.owners(blocks[i]) == 1);
      }
    }
  }
  for (int32_t block = 0; block < pool_.total_blocks(); ++block) {
    WINNOW_CHECK(owners[static_cast<size_t>(block)] == pool_.owners(block));
  }
  prefix_cache_.CheckInvariants();
  WINNOW_CHECK(host_tier().pinned_slots() == 0);
}

void KvStore::CheckExtent(const Holding& holding, int group) const {
  const auto& [table, computed, least, most] = holding;
  const std::span<const int32_t> blocks = table->blocks(group);
  const int first = windows_.FirstBlock(group, computed);
  WINNOW_CHECK(table->first_[static_cast<size_t>(group)] == first);
  for (int i = 0; i < static_cast<int>(blocks.size()); ++i) {
    WINNOW_CHECK((blocks[static_cast<size_t>(i)] == kNoBlock) == (i < first));
  }
  // Those ahead of a window may be missing until the next step, if others share what it gave back.
  const int end = static_cast<int>(blocks.size());
  const int needed = pool_.BlocksFor(windows_.has_window(group) ? computed : least);
  WINNOW_CHECK(end >= needed && end <= windows_.EndBlock(group, computed, most));
}

}  // namespace winnow
