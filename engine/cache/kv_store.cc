#include "engine/cache/kv_store.h"

#include <algorithm>
#include <unordered_map>

#include "engine/base/check.h"

namespace winnow {

KvStore::KvStore(int blocks, int block_tokens, BlockMemory& memory)
    : pool_(blocks, block_tokens), prefix_cache_(pool_), memory_(memory) {}

int KvStore::TakePrefix(std::span<const int32_t> tokens, const std::string& salt,
                        BlockTable& table) {
  WINNOW_CHECK(table.empty());
  table.blocks_ = prefix_cache_.Match(tokens, salt, &table.known_);
  for (const int32_t block : table.blocks_) pool_.Share(block);
  return table.known_.blocks * pool_.block_tokens();
}

int KvStore::KnownTokens(std::span<const int32_t> tokens, const std::string& salt) const {
  PrefixPosition known;
  prefix_cache_.Match(tokens, salt, &known);
  return known.blocks * pool_.block_tokens();
}

bool KvStore::Extend(BlockTable& table, int tokens) {
  const int missing = pool_.BlocksFor(tokens) - static_cast<int>(table.blocks_.size());
  if (missing > pool_.free_blocks()) return false;
  for (int i = 0; i < missing; ++i) table.blocks_.push_back(pool_.Allocate());
  return true;
}

void KvStore::Trim(BlockTable& table, int tokens) {
  // The last ones first, so that of a prefix that is kept the end is overwritten before the start.
  while (static_cast<int>(table.blocks_.size()) > pool_.BlocksFor(tokens)) {
    pool_.Release(table.blocks_.back());
    table.blocks_.pop_back();
  }
}

void KvStore::Publish(BlockTable& table, std::span<const int32_t> tokens, const std::string& salt) {
  const auto size = static_cast<size_t>(pool_.block_tokens());
  const size_t full = tokens.size() / size;
  for (auto i = static_cast<size_t>(table.known_.blocks); i < full; ++i) {
    prefix_cache_.Add(tokens.subspan(i * size, size), salt, table.blocks_[i], &table.known_);
  }
}

absl::StatusOr<bool> KvStore::Fork(const BlockTable& parent, int tokens, BlockTable& child) {
  WINNOW_CHECK(child.empty());
  const auto shared = static_cast<size_t>(tokens / pool_.block_tokens());
  const int last_tokens = tokens % pool_.block_tokens();
  if (last_tokens > 0 && pool_.free_blocks() == 0) return false;
  child.known_ = parent.known_;
  child.blocks_.assign(parent.blocks_.begin(),
                       parent.blocks_.begin() + static_cast<std::ptrdiff_t>(shared));
  for (const int32_t block : child.blocks_) pool_.Share(block);
  if (last_tokens == 0) return true;
  child.blocks_.push_back(pool_.Allocate());
  const absl::Status status =
      memory_.Copy({parent.blocks_[shared], child.blocks_.back(), last_tokens});
  if (!status.ok()) return status;
  return true;
}

void KvStore::Release(BlockTable& table) {
  Trim(table, 0);
  table.known_ = {};
}

int KvStore::FreeWithout(std::span<const BlockTable* const> tables) const {
  int free = pool_.free_blocks();
  std::unordered_map<int32_t, int> owners;  // of blocks, among the tables
  for (const BlockTable* table : tables) {
    for (const int32_t block : table->blocks_) {
      if (++owners[block] == pool_.owners(block)) ++free;
    }
  }
  return free;
}

void KvStore::CheckInvariants(std::span<const Holding> holdings) const {
  std::vector<int> owners(static_cast<size_t>(pool_.total_blocks()), 0);
  for (const auto& [table, computed] : holdings) {
    for (int i = 0; i < static_cast<int>(table->blocks_.size()); ++i) {
      const int32_t block = table->blocks_[static_cast<size_t>(i)];
      ++owners[static_cast<size_t>(block)];
      const bool full = (i + 1) * pool_.block_tokens() <= computed;
      WINNOW_CHECK(full || pool_.owners(block) == 1);
    }
  }
  for (int32_t block = 0; block < pool_.total_blocks(); ++block) {
    WINNOW_CHECK(owners[static_cast<size_t>(block)] == pool_.owners(block));
  }
}

}  // namespace winnow
