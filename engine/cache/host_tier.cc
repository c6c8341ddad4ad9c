#include "engine/cache/host_tier.h"

#include <cstddef>

#include "engine/base/check.h"

namespace winnow {

HostTier::HostTier(int slots) : slots_(static_cast<size_t>(slots)) {}

std::optional<int32_t> HostTier::Take() {
  if (used_ < total_slots()) {
    const int32_t slot = used_++;
    SlotOf(slot).place = by_age_.insert(by_age_.end(), slot);
    return slot;
  }
  if (by_age_.empty()) return std::nullopt;
  const int32_t slot = by_age_.front();
  Touch(slot);
  return slot;
}

void HostTier::Touch(int32_t slot) {
  const Slot& touched = SlotOf(slot);
  if (touched.pins == 0) by_age_.splice(by_age_.end(), by_age_, touched.place);
}

void HostTier::Pin(int32_t slot) {
  Slot& pinned = SlotOf(slot);
  if (pinned.pins++ == 0) by_age_.erase(pinned.place);
}

void HostTier::Unpin(int32_t slot) {
  Slot& pinned = SlotOf(slot);
  WINNOW_CHECK(pinned.pins > 0);
  if (--pinned.pins == 0) pinned.place = by_age_.insert(by_age_.end(), slot);
}

HostTier::Slot& HostTier::SlotOf(int32_t slot) {
  WINNOW_CHECK(slot >= 0 && slot < used_);
  return slots_[static_cast<size_t>(slot)];
}

}  // namespace winnow
