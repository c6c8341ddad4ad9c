#include "engine/scheduling/waiting_queue.h"

#include <algorithm>
#include <limits>

namespace winnow {
namespace {

/// Counters of clients that do not wait are forgotten when there are more.
constexpr size_t kMaxCounters = 4096;

}  // namespace

void WaitingQueue::Add(Sequence& sequence) {
  if (sequence.started()) {
    levels_[sequence.priority()].started.insert(&sequence);
    return;
  }
  const std::string& client = sequence.request().client;
  if (!Waits(client)) {
    double& served = served_[client];
    served = std::max(served, LeastServed());
  }
  levels_[sequence.priority()].clients[client].insert(&sequence);
}

void WaitingQueue::Remove(Sequence& sequence) {
  const auto level = levels_.find(sequence.priority());
  if (level->second.started.erase(&sequence) == 0) {
    const auto lane = level->second.clients.find(sequence.request().client);
    lane->second.erase(&sequence);
    if (lane->second.empty()) level->second.clients.erase(lane);
  }
  if (level->second.empty()) levels_.erase(level);
  if (levels_.empty()) {
    served_.clear();
    turns_ = 0;
  } else if (served_.size() > kMaxCounters) {
    std::erase_if(served_, [this](const auto& entry) { return !Waits(entry.first); });
  }
}

const WaitingQueue::Filter WaitingQueue::kAny = [](const Sequence&) { return true; };

Sequence* WaitingQueue::Next(const Filter& may) {
  Sequence* best = nullptr;
  Sequence* oldest_other = nullptr;
  for (const auto& [priority, level] : levels_) {
    // Whoever may be promoted needs to find a place only then.
    Sequence* next = best == nullptr ? NextOf(level, may) : NextOf(level, kAny);
    if (next == nullptr) continue;
    if (best == nullptr) {
      best = next;
    } else if (oldest_other == nullptr || next->arrival() < oldest_other->arrival()) {
      oldest_other = next;
    }
  }
  if (oldest_other == nullptr || turns_ < kPromotionInterval) return best;
  turns_ = 0;
  const int priority = best->priority();
  Remove(*oldest_other);
  oldest_other->Promote(priority);
  levels_[priority].started.insert(oldest_other);
  return NextOf(levels_.at(priority), may);  // perhaps one that was promoted before
}

void WaitingQueue::NoteTurn(const Sequence& sequence) {
  if (levels_.rbegin()->first > sequence.priority()) ++turns_;
}

void WaitingQueue::Serve(const std::string& client, double service) {
  if (!levels_.empty()) served_[client] += service;
}

bool WaitingQueue::Waits(const std::string& client) const {
  return std::ranges::any_of(
      levels_, [&](const auto& entry) { return entry.second.clients.contains(client); });
}

double WaitingQueue::LeastServed() const {
  double least = std::numeric_limits<double>::infinity();
  for (const auto& [priority, level] : levels_) {
    for (const auto& [client, lane] : level.clients) least = std::min(least, served_.at(client));
  }
  return least == std::numeric_limits<double>::infinity() ? 0 : least;
}

Sequence* WaitingQueue::NextOf(const Level& level, const Filter& may) const {
  const auto first_ready = [&](const Lane& lane) -> Sequence* {
    const auto it =
        std::ranges::find_if(lane, [&](const Sequence* s) { return !s->paused() && may(*s); });
    return it == lane.end() ? nullptr : *it;
  };
  if (Sequence* started = first_ready(level.started)) return started;
  Sequence* next = nullptr;
  double least = std::numeric_limits<double>::infinity();
  for (const auto& [client, lane] : level.clients) {
    Sequence* first = first_ready(lane);
    if (first == nullptr) continue;
    const double served = served_.at(client);
    if (served < least || (served == least && first->arrival() < next->arrival())) {
      next = first;
      least = served;
    }
  }
  return next;
}

}  // namespace winnow
