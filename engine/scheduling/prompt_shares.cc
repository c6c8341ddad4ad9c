#include "engine/scheduling/prompt_shares.h"

#include <algorithm>
#include <cstddef>

namespace winnow {
namespace {

/// A prompt, the rows that its next span may have, and those that it gets.
struct Claim {
  int pending;
  int wanted;
  int* given;

  /// Gives up to `rows` more; returns how many it took.
  int Take(int rows) {
    const int taken = std::min(rows, wanted - *given);
    *given += taken;
    return taken;
  }
};

struct Client {
  std::vector<Claim> claims;  ///< oldest first
  int wanted = 0;

  /// Divides what the client gets. REQUIRES: it is not more than it wants.
  void Divide(int rows) {
    rows -= claims.front().Take(rows / 2);
    std::ranges::stable_sort(claims, {}, &Claim::pending);
    for (Claim& claim : claims) rows -= claim.Take(rows);
  }
};

}  // namespace

std::vector<int> SharePromptRows(std::span<Sequence* const> prompts, int rows) {
  std::vector<int> shares(prompts.size(), 0);
  std::map<std::string, Client> clients;
  for (size_t i = 0; i < prompts.size(); ++i) {
    Sequence& prompt = *prompts[i];
    const int pending = prompt.pending();
    const int wanted = rows == 0 ? 0 : prompt.NextSpan(std::min(pending, rows)).rows();
    Client& client = clients[prompt.request().client];
    client.claims.push_back({pending, wanted, &shares[i]});
    client.wanted += wanted;
  }
  std::vector<Client*> order;  // who wants least comes first, and leaves the rest to the others
  for (auto& [name, client] : clients) order.push_back(&client);
  std::ranges::stable_sort(order, {}, &Client::wanted);
  for (size_t i = 0; i < order.size(); ++i) {
    const int left = static_cast<int>(order.size() - i);
    const int share = std::min(order[i]->wanted, (rows + left - 1) / left);
    order[i]->Divide(share);
    rows -= share;
  }
  return shares;
}

PromptPlaces::PromptPlaces(const RunningSet& running, int rows) : rows_(rows) {
  for (const Sequence* sequence : running) {
    if (sequence->decoding()) continue;
    Level& level = levels_[sequence->priority()];
    level.pending += sequence->pending();
    int& shortest =
        level.shortest.try_emplace(sequence->request().client, sequence->pending()).first->second;
    shortest = std::min(shortest, sequence->pending());
  }
}

bool PromptPlaces::HasPlace(const Sequence& waiting, int pending) const {
  int64_t left = rows_;
  auto level = levels_.begin();
  for (; level != levels_.end() && level->first < waiting.priority(); ++level) {
    left -= level->second.pending;
  }
  if (left <= 0) return false;
  if (level == levels_.end() || level->first > waiting.priority()) return true;
  if (level->second.pending < left) return true;
  const auto& shortest = level->second.shortest;
  const auto clients = static_cast<int64_t>(shortest.size());
  const auto own = shortest.find(waiting.request().client);
  if (own != shortest.end()) return 2 * clients <= left && pending <= own->second / 2;
  return clients < std::min<int64_t>(left, kMaxSharingClients);
}

}  // namespace winnow
