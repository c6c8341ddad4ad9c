#pragma once

#include <cstdint>
#include <list>
#include <optional>
#include <vector>

namespace winnow {

/// Names no slot: where the host tier has no copy of a block.
inline constexpr int kNoSlot = -1;

/// Counts which slots of host memory are in use; each holds a copy of one KV block. It knows ids
/// only: the memory behind them is a BlockMemory's, and what they hold the PrefixCache's.
///
/// A slot that was written stays in use, until it is the one that was used longest ago and another
/// block needs it.
class HostTier {
 public:
  /// REQUIRES: slots >= 0.
  explicit HostTier(int slots);

  int total_slots() const { return static_cast<int>(slots_.size()); }
  int used_slots() const { return used_; }
  int pinned_slots() const { return used_ - static_cast<int>(by_age_.size()); }

  /// A slot to write, which counts as used now: one that never was, or else the one that was used
  /// longest ago. None if all are pinned.
  std::optional<int32_t> Take();

  /// The slot is used now. REQUIRES: it was taken.
  void Touch(int32_t slot);

  /// The slot stays as it is until each Pin has its Unpin. REQUIRES: it was taken.
  void Pin(int32_t slot);

  /// Takes one Pin back; the slot counts as used now. REQUIRES: it is pinned.
  void Unpin(int32_t slot);

 private:
  struct Slot {
    int pins = 0;
    std::list<int32_t>::iterator place;  ///< in by_age_, while it is used and not pinned
  };
  Slot& SlotOf(int32_t slot);

  std::vector<Slot> slots_;
  int used_ = 0;               ///< the first ones
  std::list<int32_t> by_age_;  ///< those to take again; used longest ago first
};

}  // namespace winnow
