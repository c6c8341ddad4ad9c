#include "engine/cache/prefix_cache.h"

#include <algorithm>
#include <string_view>

#include "engine/base/check.h"

namespace winnow {

PrefixCache::PrefixCache(BlockPool& pool, const KvWindows& windows)
    : pool_(pool), windows_(windows) {
  pool_.SetEvictionObserver([this](int32_t block) { Forget(block); });
}

PrefixCache::~PrefixCache() { pool_.SetEvictionObserver(nullptr); }

std::vector<std::vector<int32_t>> PrefixCache::Match(std::span<const int32_t> tokens,
                                                     const std::string& salt,
                                                     PrefixPosition* position) const {
  const auto block_tokens = static_cast<size_t>(pool_.block_tokens());
  const auto groups = static_cast<size_t>(windows_.groups());
  std::vector<const Entry*> chain;
  std::vector<int> unbroken(groups, 0);  // blocks of the chain are known from here on
  *position = {};
  int64_t last = 0;
  for (; tokens.size() >= block_tokens; tokens = tokens.subspan(block_tokens)) {
    const auto found = entries_.find(KeyOf(tokens.first(block_tokens), salt, last));
    if (found == entries_.end()) break;
    const Entry& entry = found->second;
    chain.push_back(&entry);
    last = entry.id;
    const auto length = static_cast<int>(chain.size());
    bool is_enough = true;
    for (size_t g = 0; g < groups; ++g) {
      if (entry.blocks[g] == kNoBlock) unbroken[g] = length;
      const int first =
          windows_.FirstBlock(static_cast<int>(g), length * static_cast<int>(block_tokens));
      is_enough &= unbroken[g] <= first;
    }
    if (is_enough) *position = {length, entry.id};
  }
  std::vector<std::vector<int32_t>> blocks(groups);
  const int computed = position->blocks * static_cast<int>(block_tokens);
  for (size_t g = 0; g < groups; ++g) {
    blocks[g].assign(static_cast<size_t>(position->blocks), kNoBlock);
    for (auto i = static_cast<size_t>(windows_.FirstBlock(static_cast<int>(g), computed));
         i < blocks[g].size(); ++i) {
      blocks[g][i] = chain[i]->blocks[g];
    }
  }
  return blocks;
}

void PrefixCache::Add(std::span<const int32_t> block_tokens, const std::string& salt,
                      std::span<const int32_t> blocks, PrefixPosition* position) {
  WINNOW_CHECK(static_cast<int>(block_tokens.size()) == pool_.block_tokens());
  WINNOW_CHECK(static_cast<int>(blocks.size()) == windows_.groups());
  Entries::value_type* const entry = EntryOf(KeyOf(block_tokens, salt, position->last));
  ++position->blocks;
  position->last = entry == nullptr ? -1 : entry->second.id;
  if (entry == nullptr) return;
  for (size_t g = 0; g < blocks.size(); ++g) {
    if (entry->second.blocks[g] != kNoBlock) continue;
    entry->second.blocks[g] = blocks[g];
    ++entry->second.known;
    places_[blocks[g]] = {entry, g};
    pool_.Keep(blocks[g]);
  }
}

// The entry of the key, new or not; null if the one before it is forgotten.
PrefixCache::Entries::value_type* PrefixCache::EntryOf(Key key) {
  const auto parent = by_id_.find(key.parent);
  if (key.parent != 0 && parent == by_id_.end()) return nullptr;
  const auto [entry, is_new] = entries_.try_emplace(std::move(key));
  if (!is_new) return &*entry;
  entry->second.id = ++last_id_;
  entry->second.blocks.assign(static_cast<size_t>(windows_.groups()), kNoBlock);
  by_id_[last_id_] = &*entry;
  if (parent != by_id_.end()) ++parent->second->second.followers;
  return &*entry;
}

// The block is overwritten. What follows it is found as long as no window that is asked for reaches
// the block, and again when another one has been computed.
void PrefixCache::Forget(int32_t block) {
  const auto place = places_.find(block);
  WINNOW_CHECK(place != places_.end());
  Entries::value_type* entry = place->second.entry;
  entry->second.blocks[place->second.group] = kNoBlock;
  --entry->second.known;
  places_.erase(place);
  while (entry->second.known == 0 && entry->second.followers == 0) {
    const auto parent = by_id_.find(entry->first.parent);
    by_id_.erase(entry->second.id);
    entries_.erase(entries_.find(entry->first));
    if (parent == by_id_.end()) return;
    entry = parent->second;
    --entry->second.followers;
  }
}

PrefixCache::Key PrefixCache::KeyOf(std::span<const int32_t> block_tokens, const std::string& salt,
                                    int64_t parent) const {
  return {parent, parent == 0 ? salt : "", {block_tokens.begin(), block_tokens.end()}};
}

size_t PrefixCache::KeyHash::operator()(const Key& key) const {
  const auto bytes = [](const auto& range) {
    return std::string_view(reinterpret_cast<const char*>(range.data()),
                            range.size() * sizeof(range[0]));
  };
  const std::hash<std::string_view> hash;
  constexpr size_t kMix = 0x9e3779b97f4a7c15;
  return (hash(bytes(key.tokens)) * kMix ^ static_cast<size_t>(key.parent)) * kMix ^ hash(key.salt);
}

}  // namespace winnow
