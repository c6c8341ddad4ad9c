#pragma once

#include <set>
#include <vector>

#include "engine/sequence/sequence.h"

namespace winnow {

/// The sequences that own KV blocks, by priority and age, and who of them gives way.
///
/// A sequence rests when its reader is slow and it has nothing to do but to decode. It keeps its
/// blocks while nobody needs them, but is the first to lose them. One that is computing its past
/// goes on until it has chosen a token, so that readers who falter now and then cannot keep each
/// other from ever getting on.
class RunningSet {
 public:
  using Order = std::set<Sequence*, ComesBefore>;

  void Add(Sequence& sequence) { sequences_.insert(&sequence); }
  void Remove(Sequence& sequence) { sequences_.erase(&sequence); }

  Order::const_iterator begin() const { return sequences_.begin(); }
  Order::const_iterator end() const { return sequences_.end(); }
  bool empty() const { return sequences_.empty(); }
  /// The one after `sequence`, which may have been removed meanwhile.
  Order::const_iterator After(Sequence& sequence) const {
    return sequences_.upper_bound(&sequence);
  }

  /// Sequences that run, with those that will fork from them.
  int slots() const;

  /// Who makes room for one that waits: those that rest, and those of lower priority. Promotion
  /// protects, but takes from nobody: else a promoted sequence could take from an older one that
  /// was started before it.
  static bool GivesWay(const Sequence& running, const Sequence& waiting);
  std::vector<Sequence*> ThoseWhoGiveWayTo(const Sequence& waiting) const;

  /// Of those, the next to do so: resting ones first, then the lowest priority, youngest first.
  /// Null if nobody does.
  Sequence* NextToGiveWayTo(const Sequence& waiting) const;

  /// The same without those that rest: they hold up nobody who computes.
  Sequence* NextOfLowerPriority(const Sequence& waiting) const;

  /// Who gives way to one that runs: the same order, but the last one whatever its priority,
  /// perhaps that one itself. REQUIRES: not empty.
  Sequence& NextToGiveWay() const;

 private:
  Sequence* LastResting() const;

  Order sequences_;
};

}  // namespace winnow
