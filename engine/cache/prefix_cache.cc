#include "engine/cache/prefix_cache.h"

#include <algorithm>
#include <iterator>
#include <optional>
#include <string_view>

#include "engine/base/check.h"

namespace winnow {

PrefixCache::PrefixCache(BlockPool& pool, const KvWindows& windows, int host_slots)
    : pool_(pool),
      windows_(windows),
      tier_(host_slots),
      slot_places_(static_cast<size_t>(host_slots)) {
  pool_.SetEvictionObserver([this](int32_t block) { Evict(block); });
}

PrefixCache::~PrefixCache() { pool_.SetEvictionObserver(nullptr); }

std::vector<std::vector<KnownBlock>> PrefixCache::Match(std::span<const int32_t> tokens,
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
      if (!entry.blocks[g].known()) unbroken[g] = length;
      const int first =
          windows_.FirstBlock(static_cast<int>(g), length * static_cast<int>(block_tokens));
      is_enough &= unbroken[g] <= first;
    }
    if (is_enough) *position = {length, entry.id};
  }
  std::vector<std::vector<KnownBlock>> blocks(groups);
  const int computed = position->blocks * static_cast<int>(block_tokens);
  for (size_t g = 0; g < groups; ++g) {
    blocks[g].resize(static_cast<size_t>(position->blocks));
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
    NoteBlock({entry, g}, blocks[g]);
  }
}

void PrefixCache::NoteFetch(const BlockInSlot& fetched) {
  ++traffic_.fetched;
  NoteBlock(slot_places_[static_cast<size_t>(fetched.slot)], fetched.block);
}

// The block has what is known under that place; a second one is not kept.
void PrefixCache::NoteBlock(const Place& place, int32_t block) {
  if (place.known().block != kNoBlock) return;
  place.known().block = block;
  ++place.entry->second.copies;
  places_[block] = place;
  pool_.Keep(block);
}

// The entry of the key, new or not; null if the one before it is forgotten.
PrefixCache::Entries::value_type* PrefixCache::EntryOf(Key key) {
  const auto parent = by_id_.find(key.parent);
  if (key.parent != 0 && parent == by_id_.end()) return nullptr;
  const auto [entry, is_new] = entries_.try_emplace(std::move(key));
  if (!is_new) return &*entry;
  entry->second.id = ++last_id_;
  entry->second.blocks.resize(static_cast<size_t>(windows_.groups()));
  by_id_[last_id_] = &*entry;
  if (parent != by_id_.end()) ++parent->second->second.followers;
  return &*entry;
}

// The block is overwritten.
void PrefixCache::Evict(int32_t block) {
  const auto found = places_.find(block);
  WINNOW_CHECK(found != places_.end());
  const Place place = found->second;
  Spill(block, place);
  place.known().block = kNoBlock;
  places_.erase(found);
  LoseCopy(place.entry);
}

// Finds a slot for the block, which its entry still has, unless it has one already.
void PrefixCache::Spill(int32_t block, const Place& place) {
  KnownBlock& known = place.known();
  if (known.slot != kNoSlot) return tier_.Touch(known.slot);
  const std::optional<int32_t> slot = tier_.Take();
  if (!slot.has_value()) return;
  Place& slot_place = slot_places_[static_cast<size_t>(*slot)];
  if (slot_place.entry != nullptr) {
    ++traffic_.dropped;
    slot_place.known().slot = kNoSlot;
    LoseCopy(slot_place.entry);
  }
  slot_place = place;
  known.slot = *slot;
  ++place.entry->second.copies;
  spills_[*slot] = block;
}

// Forgets entries without copies. What follows one is found as long as no window that is asked for
// reaches it, and again when another copy has been computed.
void PrefixCache::LoseCopy(Entries::value_type* entry) {
  --entry->second.copies;
  while (entry->second.copies == 0 && entry->second.followers == 0) {
    const auto parent = by_id_.find(entry->first.parent);
    by_id_.erase(entry->second.id);
    entries_.erase(entries_.find(entry->first));
    if (parent == by_id_.end()) return;
    entry = parent->second;
    --entry->second.followers;
  }
}

std::vector<BlockInSlot> PrefixCache::TakeSpills() {
  std::vector<BlockInSlot> spills;
  for (const auto& [slot, block] : spills_) spills.push_back({block, slot});
  spills_.clear();
  traffic_.spilled += std::ssize(spills);
  return spills;
}

void PrefixCache::CheckInvariants() const {
  size_t blocks = 0;
  int slots = 0;
  for (const Entries::value_type& entry : entries_) {
    int copies = 0;
    for (size_t g = 0; g < entry.second.blocks.size(); ++g) {
      const auto& [block, slot] = entry.second.blocks[g];
      const auto is_here = [&](const Place& place) {
        return place.entry == &entry && place.group == g;
      };
      if (block != kNoBlock) {
        WINNOW_CHECK(is_here(places_.at(block)));
        ++blocks;
        ++copies;
      }
      if (slot != kNoSlot) {
        WINNOW_CHECK(is_here(slot_places_.at(static_cast<size_t>(slot))));
        ++slots;
        ++copies;
      }
    }
    WINNOW_CHECK(copies == entry.second.copies);
  }
  WINNOW_CHECK(blocks == places_.size() && slots == tier_.used_slots());
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
