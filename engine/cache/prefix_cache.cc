#include "engine/cache/prefix_cache.h"

#include <algorithm>
#include <string_view>

#include "engine/base/check.h"

namespace winnow {

PrefixCache::PrefixCache(BlockPool& pool) : pool_(pool) {
  pool_.SetEvictionObserver([this](int32_t block) {
    const auto key = keys_.find(block);
    WINNOW_CHECK(key != keys_.end());
    entries_.erase(key->second);
    keys_.erase(key);
  });
}

PrefixCache::~PrefixCache() { pool_.SetEvictionObserver(nullptr); }

std::vector<int32_t> PrefixCache::Match(std::span<const int32_t> tokens, const std::string& salt,
                                        PrefixPosition* position) const {
  const auto block_tokens = static_cast<size_t>(pool_.block_tokens());
  std::vector<int32_t> blocks;
  *position = {};
  for (; tokens.size() >= block_tokens; tokens = tokens.subspan(block_tokens)) {
    const auto entry = entries_.find(KeyOf(tokens.first(block_tokens), salt, position->last));
    if (entry == entries_.end()) break;
    blocks.push_back(entry->second.block);
    *position = {position->blocks + 1, entry->second.id};
  }
  return blocks;
}

void PrefixCache::Add(std::span<const int32_t> block_tokens, const std::string& salt, int32_t block,
                      PrefixPosition* position) {
  WINNOW_CHECK(static_cast<int>(block_tokens.size()) == pool_.block_tokens());
  Key key = KeyOf(block_tokens, salt, position->last);
  const auto [entry, is_new] = entries_.try_emplace(key, Entry{last_id_ + 1, block});
  if (is_new) {
    ++last_id_;
    keys_.emplace(block, std::move(key));
    pool_.Keep(block);
  }
  *position = {position->blocks + 1, entry->second.id};
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
