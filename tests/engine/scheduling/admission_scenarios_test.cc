// What admission and starting must do in plain situations, on servers of known costs in virtual
// time.

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "tests/engine/scheduling/virtual_server.h"

namespace winnow {
namespace {

constexpr StepModel kTwoCores = {.base = 0.015, .prompt_row = 0.009, .decode_row = 0.011};
constexpr StepModel kLargeGpu = {.base = 0.010, .prompt_row = 1e-4, .decode_row = 5e-5};

EngineOptions Options() {
  EngineOptions options;
  options.block_tokens = 16;
  options.kv_blocks = 4096;
  options.max_context = 16'384;
  return options;
}

/// A request that comes `at` seconds after the start, with `left` seconds to its deadline. Prompts
/// of the same `first` token begin alike.
Arrival At(double at, const std::string& client, int prompt, int tokens, double left,
           int first = 0) {
  Arrival arrival;
  arrival.at = absl::UnixEpoch() + absl::Seconds(at);
  arrival.request.client = client;
  for (int i = 0; i < prompt; ++i) arrival.request.prompt_tokens.push_back((first + i / 16) % 15);
  arrival.request.max_tokens = tokens;
  arrival.request.ignore_eos = true;
  arrival.request.deadline = arrival.at + absl::Seconds(left);
  return arrival;
}

std::vector<Arrival> Times(int times, const Arrival& arrival) {
  return std::vector<Arrival>(static_cast<size_t>(times), arrival);
}

void Append(std::vector<Arrival> more, std::vector<Arrival>& arrivals) {
  for (Arrival& arrival : more) arrivals.push_back(std::move(arrival));
}

/// Seconds to the end of each request.
std::vector<double> EndsOf(VirtualServer& server, std::vector<Arrival> arrivals) {
  server.Run(std::move(arrivals));
  std::vector<double> seconds;
  for (size_t i = 0; i < server.fates().size(); ++i) {
    seconds.push_back(absl::ToDoubleSeconds(server.fates()[i].end - server.arrivals()[i].at));
  }
  return seconds;
}

int Completed(const VirtualServer& server, const std::string& client) {
  int completed = 0;
  for (size_t i = 0; i < server.fates().size(); ++i) {
    completed += server.arrivals()[i].request.client == client &&
                 server.fates()[i].kind == Fate::Kind::kCompleted;
  }
  return completed;
}

TEST(AdmissionScenariosTest, AFreshServerTakesBursts) {
  constexpr int kBurst = 8;
  for (StepModel costs : {kTwoCores, kLargeGpu}) {
    costs.cold_steps = 5;
    costs.cold_factor = 5;
    for (const int tokens : {200, 800}) {
      std::vector<Arrival> arrivals = {At(0, "a", 10, 5, 1e6)};
      Append(Times(kBurst, At(10, "b", 30, tokens, 1e6)), arrivals);
      VirtualServer unhurried(Options(), costs);
      const std::vector<double> seconds = EndsOf(unhurried, arrivals);
      const double takes = *std::max_element(seconds.begin() + 1, seconds.end());

      arrivals.resize(1);
      for (int i = 0; i < 3; ++i) {
        Append(Times(kBurst, At(10 + i * 2 * takes, "b", 30, tokens, 4 * takes)), arrivals);
      }
      VirtualServer server(Options(), costs);
      server.Run(arrivals);
      EXPECT_EQ(Completed(server, "b"), 3 * kBurst)
          << tokens << " tokens each in " << 4 * takes << " s, base " << costs.base;
    }
  }
}

TEST(AdmissionScenariosTest, AnOutlineOfOneClientDoesNotLockOutOthers) {
  for (const StepModel& costs : {kTwoCores, kLargeGpu}) {
    const double step = costs.base + costs.decode_row;
    std::vector<Arrival> arrivals;
    // The server knows its costs.
    for (int i = 0; i < 20; ++i) arrivals.push_back(At(10.0 * i, "b", 50, 20 + i, 1e6));
    arrivals.push_back(At(300, "outline", 10, 8000, 1.05 * 8000 * step));
    for (int i = 0; i < 10; ++i) {
      arrivals.push_back(At(301 + 0.9 * 800 * step * i, "ordinary", 50, 60, 30));
    }
    VirtualServer server(Options(), costs);
    server.Run(arrivals);
    EXPECT_EQ(Completed(server, "ordinary"), 10) << "base " << costs.base;
  }
}

TEST(AdmissionScenariosTest, APromptThatIsCachedIsNotChargedToItsRequest) {
  for (const StepModel& costs : {kTwoCores, kLargeGpu}) {
    const double prompt = 6000 * costs.prompt_row;
    const double step = costs.base + costs.decode_row;
    std::vector<Arrival> arrivals;
    for (int i = 0; i < 20; ++i) arrivals.push_back(At(10.0 * i, "b", 50, 20 + i, 1e6));
    arrivals.push_back(At(300, "c", 6000, 20, 1e6, /*first=*/3));
    // While another one runs, whose end is not in danger.
    arrivals.push_back(At(400, "b", 50, 1000, 1e6));
    const double left = 20 * step * 3 + 0.3 * prompt;
    for (int i = 0; i < 5; ++i) arrivals.push_back(At(401 + i, "c", 6000, 20, left, /*first=*/3));
    VirtualServer server(Options(), costs);
    server.Run(arrivals);
    EXPECT_EQ(Completed(server, "c"), 6) << "base " << costs.base;
  }
}

TEST(AdmissionScenariosTest, WhoWouldMakeARunningOneLateLetsOthersPass) {
  std::vector<Arrival> arrivals;
  for (int i = 0; i < 20; ++i) arrivals.push_back(At(10.0 * i, "b", 50, 20 + i, 1e6));
  // Alone it takes 26 s. A prompt of 2,000 tokens takes 18 s.
  arrivals.push_back(At(300, "running", 10, 1000, 41));
  arrivals.push_back(At(301, "head", 2000, 10, 1e6));
  for (int i = 0; i < 5; ++i) arrivals.push_back(At(302 + 2 * i, "brief", 10, 5, 1e6));
  VirtualServer server(Options(), kTwoCores);
  const std::vector<double> seconds = EndsOf(server, arrivals);
  EXPECT_EQ(Completed(server, "running"), 1);
  EXPECT_LT(*std::max_element(seconds.begin() + 22, seconds.end()), 3) << "of brief ones";
  // When the running one has ended, the head is at once the next.
  EXPECT_LT(seconds[21], seconds[20] + 18 + 5);
}

}  // namespace
}  // namespace winnow
