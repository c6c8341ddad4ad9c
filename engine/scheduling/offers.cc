#include "engine/scheduling/offers.h"

#include <algorithm>
#include <cstddef>

namespace winnow {
namespace {

/// What a request that came still counts in its client's average after the next one.
constexpr double kMemory = 0.99;
/// When there are more clients than that, those that have not come for so long are forgotten, or
/// else the one that came longest ago.
constexpr size_t kMaxClients = 1024;
constexpr absl::Duration kForgotten = absl::Seconds(15);

constexpr absl::Duration kLately = absl::Minutes(1);
constexpr size_t kMaxRefused = 8;

}  // namespace

void Offers::Note(const Request& request, const Forecast& forecast, absl::Time now) {
  clients_[request.client].came = now;
  if (clients_.size() > kMaxClients) {
    std::erase_if(clients_,
                  [&](const auto& entry) { return entry.second.came < now - kForgotten; });
  }
  if (clients_.size() > kMaxClients) {
    clients_.erase(std::ranges::min_element(clients_, {},
                                            [](const auto& entry) { return entry.second.came; }));
  }
  if (request.deadline == absl::InfiniteFuture()) return;
  const int prompt = static_cast<int>(request.prompt_tokens.size());
  const Load load = forecast.LoadOf(request, /*known=*/prompt) * (1.0 / request.n);
  const double seconds = absl::ToDoubleSeconds(request.deadline - now);
  if (forecast.ClaimsAll(load, seconds)) return;
  Client& client = clients_[request.client];
  const double weight = load.decode_tokens;
  client.weight = client.weight * kMemory + weight;
  client.sum.load = client.sum.load * kMemory + load * weight;
  client.sum.seconds = client.sum.seconds * kMemory + seconds * weight;
}

void Offers::NoteRefusal(const Request& request, absl::Time now) {
  std::erase_if(refused_, [&](const Refused& refused) {
    return refused.client == request.client || refused.time < now - kLately;
  });
  refused_.push_back({request.client, request.priority, now});
  if (refused_.size() > kMaxRefused) refused_.pop_front();
}

std::optional<Offers::Average> Offers::AverageOf(const std::string& client) const {
  const auto entry = clients_.find(client);
  if (entry == clients_.end() || entry->second.weight == 0) return std::nullopt;
  const auto& [came, weight, sum] = entry->second;
  return Average{sum.load * (1 / weight), sum.seconds / weight};
}

}  // namespace winnow
