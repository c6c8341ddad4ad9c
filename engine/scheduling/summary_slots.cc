#include "engine/scheduling/summary_slots.h"

#include <algorithm>

#include "engine/sequence/sequence.h"

namespace winnow {

SummarySlot SummarySlots::Take(const Sequence& sequence, int32_t position) {
  if (count_ == 0) return {};
  const std::pair key(sequence.arrival(), sequence.index());
  auto entry = entries_.find(key);
  if (entry == entries_.end()) {
    auto slot = static_cast<int32_t>(entries_.size());
    const auto oldest = std::ranges::min_element(
        entries_, {}, [](const auto& candidate) { return candidate.second.taken; });
    // A step takes at most count_ times. Memory that was used before comes first.
    if (oldest != entries_.end() && oldest->second.taken + count_ <= calls_) {
      slot = oldest->second.summary.slot;
      entries_.erase(oldest);
    }
    entry = entries_.emplace(key, Entry{.summary = {.slot = slot}}).first;
  }
  SummarySlot& summary = entry->second.summary;
  entry->second.taken = calls_++;
  summary.Begin(position);
  const SummarySlot before = summary;
  summary.End(position);
  return before;
}

}  // namespace winnow
