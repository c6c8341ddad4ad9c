#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <set>
#include <string>

#include "engine/sequence/sequence.h"

namespace winnow {

/// What a client is counted for a token of its prompts that was computed, and for one that was
/// generated for it.
inline constexpr double kPromptTokenService = 1;
inline constexpr double kDecodeTokenService = 2;

/// The sequences that wait, and whose turn it is.
///
/// Lower priorities come first. Within a priority, sequences that have been started before
/// (preempted ones) come before others, oldest first. Of those that have not, it is the turn of the
/// client that was served least, and of its oldest one: the virtual token counter of "Fairness in
/// Serving Large Language Models" (Sheng et al., OSDI 2024). A client's counter grows with the
/// service it gets while anybody waits. When its first sequence comes to wait, the counter is
/// lifted to the smallest of those who wait, so that nobody saves turns up for later. When nobody
/// waits, all counters are forgotten.
///
/// So that no priority waits for ever, every kPromotionInterval-th turn that leaves lower ones
/// waiting is followed by a promotion: of what would be the next of each, the oldest one gets the
/// highest priority that waits, for good, and comes before those that have not been started.
class WaitingQueue {
 public:
  static constexpr int kPromotionInterval = 8;

  void Add(Sequence& sequence);
  /// REQUIRES: it is here.
  void Remove(Sequence& sequence);

  /// Tells whether a sequence may be next.
  using Filter = std::function<bool(const Sequence&)>;
  static const Filter kAny;

  /// Whose turn it is of those that may be next and are not paused; nullptr if there is none. May
  /// promote one that may not be next where it waits.
  Sequence* Next(const Filter& may = kAny);

  /// The sequence is about to be started: Next chose it, and it will be removed.
  void NoteTurn(const Sequence& sequence);

  /// A client gets service. Without effect while nobody waits.
  void Serve(const std::string& client, double service);

  bool empty() const { return levels_.empty(); }
  /// Everything that waits, in no particular order.
  template <typename Visitor>
  void ForEach(Visitor visit) const {
    for (const auto& [priority, level] : levels_) {
      for (const Sequence* sequence : level.started) visit(*sequence);
      for (const auto& [client, lane] : level.clients) {
        for (const Sequence* sequence : lane) visit(*sequence);
      }
    }
  }

 private:
  /// Sequences of one client, or started ones, oldest first.
  using Lane = std::set<Sequence*, ComesBefore>;
  struct Level {
    Lane started;
    std::map<std::string, Lane> clients;

    bool empty() const { return started.empty() && clients.empty(); }
  };

  bool Waits(const std::string& client) const;
  double LeastServed() const;
  Sequence* NextOf(const Level& level, const Filter& may) const;

  std::map<int, Level> levels_;           ///< by priority
  std::map<std::string, double> served_;  ///< by client
  int turns_ = 0;                         ///< since the last promotion, with lower ones waiting
};

}  // namespace winnow
