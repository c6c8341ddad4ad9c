#include "engine/scheduling/queue_bounds.h"

#include <algorithm>
#include <utility>

namespace winnow {

bool QueueBounds::Exceeded(const WaitingLoad& waiting) const {
  const Load& total = waiting.total();
  return total.requests > max_requests_ ||
         (total.requests > 1 && total.prompt_tokens > max_tokens_);
}

QueueBounds::Bound QueueBounds::ExceededWith(const WaitingLoad& waiting, const Load& load) const {
  const Load& total = waiting.total();
  if (total.requests == 0) return Bound::kNone;
  if (total.requests + 1 > max_requests_) return Bound::kRequests;
  return total.prompt_tokens + load.prompt_tokens > max_tokens_ ? Bound::kTokens : Bound::kNone;
}

bool QueueBounds::WouldGiveWay(const WaitingLoad& waiting, const Request& newcomer) {
  const auto& [priority, clients] = *waiting.levels().rbegin();
  if (newcomer.priority != priority) return newcomer.priority > priority;
  const auto own = clients.find(newcomer.client);
  const double requests = 1 + (own == clients.end() ? 0 : own->second.requests);
  return std::ranges::all_of(clients, [&](const auto& client) {
    return client.first == newcomer.client || client.second.requests <= requests;
  });
}

QueueBounds::Owner QueueBounds::GivesWay(const WaitingLoad& waiting, const Request& newcomer) {
  const auto& [priority, clients] = *waiting.levels().rbegin();
  const bool same_level = priority == newcomer.priority;
  const auto most = std::ranges::max_element(clients, [&](const auto& a, const auto& b) {
    const auto rank = [&](const auto& client) {
      return std::pair(client.second.requests, same_level && client.first == newcomer.client);
    };
    return rank(a) < rank(b);
  });
  return {priority, most->first};
}

}  // namespace winnow
