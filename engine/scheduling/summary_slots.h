#pragma once

#include <cstdint>
#include <map>
#include <utility>

#include "kernels/summary.h"

namespace winnow {

class Sequence;

/// Which sequence's summary lies in which slot of the pools. A summary is made of the sequence's KV
/// blocks, so that a slot is no more than a place to remember it: the one that was asked for
/// longest ago, and not of late, is given to a sequence that has none, and whoever lost it begins
/// anew. So few sequences at a time touch few slots.
class SummarySlots {
 public:
  /// REQUIRES: no step has more sequences than there are slots.
  explicit SummarySlots(int count) : count_(count) {}

  /// The slot of the sequence, for its rows from `position` on, which are computed before the next
  /// call. None if there are no slots.
  SummarySlot Take(const Sequence& sequence, int32_t position);

 private:
  struct Entry {
    SummarySlot summary;
    int64_t taken = 0;  ///< calls before the last one for it
  };

  const int count_;
  int64_t calls_ = 0;
  std::map<std::pair<int64_t, int>, Entry> entries_;  ///< by Sequence::arrival and index
};

}  // namespace winnow
