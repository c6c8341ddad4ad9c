#include "engine/scheduling/prompt_shares.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "tests/engine/scheduling/sequences.h"

namespace winnow {
namespace {

TEST(PromptSharesTest, EveryClientGetsItsShareOrAllItNeedsAndNoRowIsLost) {
  std::mt19937 random(1);
  const auto between = [&](int low, int high) {
    return std::uniform_int_distribution<int>(low, high)(random);
  };
  for (int round = 0; round < 3'000; ++round) {
    SCOPED_TRACE(round);
    Sequences made;
    std::vector<Sequence*> prompts;
    for (int i = between(1, 8); i > 0; --i) {
      prompts.push_back(&made.Make({.prompt = between(1, round % 2 == 0 ? 60 : 6),
                                    .client = std::string(1, 'a' + between(0, 3))}));
    }
    const int rows = between(0, 40);
    const std::vector<int> shares = SharePromptRows(prompts, rows);

    struct Client {
      int needed = 0;
      int given = 0;
      int oldest_needed = 0;
      int oldest_given = 0;
      int shortest_needed = 1000;
      int shortest_given = 0;
    };
    std::map<std::string, Client> clients;
    int all_needed = 0;
    for (size_t i = 0; i < prompts.size(); ++i) {
      const int needed = prompts[i]->length();
      ASSERT_GE(shares[i], 0);
      ASSERT_LE(shares[i], needed);
      all_needed += needed;
      const auto [entry, is_new] = clients.try_emplace(prompts[i]->request().client);
      Client& client = entry->second;
      client.needed += needed;
      client.given += shares[i];
      if (is_new) {
        client.oldest_needed = needed;
        client.oldest_given = shares[i];
      }
      if (needed < client.shortest_needed) {
        client.shortest_needed = needed;
        client.shortest_given = shares[i];
      }
    }
    ASSERT_EQ(std::accumulate(shares.begin(), shares.end(), 0), std::min(rows, all_needed));
    const int share = rows / static_cast<int>(clients.size());
    for (const auto& [name, client] : clients) {
      ASSERT_GE(client.given, std::min(client.needed, share)) << name;
      ASSERT_GE(client.oldest_given, std::min(client.oldest_needed, share / 2)) << name;
      ASSERT_GE(client.shortest_given, std::min(client.shortest_needed, share / 2)) << name;
    }
  }
}

}  // namespace
}  // namespace winnow
