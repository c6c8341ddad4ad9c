// How often admission is wrong, on servers whose costs are known, in virtual time. Who was refused
// for its deadline is let in in a copy of the process: the refusal was wrong if it ends there with
// time to spare and makes nobody late. An admission was wrong if the request does not end in time.
//
//     WINNOW_ADMISSION_HOURS=10 admission_quality_test     hours of virtual time

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "tests/engine/scheduling/virtual_server.h"

namespace winnow {
namespace {

constexpr StepModel kTwoCores = {.base = 0.015,
                                 .prompt_row = 0.009,
                                 .decode_row = 0.011,
                                 .prompt_context = 1e-6,
                                 .decode_context = 2e-6,
                                 .cold_steps = 3,
                                 .cold_factor = 4,
                                 .noise = 0.1};
constexpr StepModel kLargeGpu = {.base = 0.010,
                                 .prompt_row = 1e-4,
                                 .decode_row = 5e-5,
                                 .prompt_context = 5e-9,
                                 .decode_context = 1e-8,
                                 .cold_steps = 3,
                                 .cold_factor = 10,
                                 .noise = 0.1};

/// What one client asks for.
struct Kind {
  int prompt_least, prompt_most;
  int tokens_least, tokens_most;
  int shared_prompt = 0;  ///< tokens that all prompts begin with
  bool ends_by_itself = false;
  double patience_least = 1.5;  ///< deadlines, in times of what it takes alone
  double patience_most = 20;
};
constexpr Kind kKinds[] = {
    {20, 300, 20, 300},                         // chat
    {20, 300, 600, 1000, 0, true},              // chat without a limit
    {800, 3000, 20, 150},                       // documents
    {10, 100, 20, 150, 3000},                   // one document
    {1, 20, 1, 8},                              // short questions
    {10, 20, 1500, 3000, 0, false, 1.05, 1.1},  // outlines
};

/// Requests of an episode on one machine.
class Episode {
 public:
  Episode(unsigned seed, double load) : random_(seed), load_(load) {
    costs_ = OneIn(2) ? kTwoCores : kLargeGpu;
    options_.block_tokens = 16;
    options_.max_context = 4096;
    options_.max_running_sequences = OneIn(2) ? 64 : 8;
    options_.kv_blocks = 4096 / 16 * (OneIn(4) ? 4 : 64);
  }

  std::vector<Arrival> Arrivals(double seconds) {
    std::vector<Arrival> arrivals;
    const int clients = Between(1, 6);
    for (int client = 0; client < clients; ++client) {
      Kind kind = kKinds[static_cast<size_t>(Between(0, 4))];
      if (client == 0 && OneIn(4)) kind = kKinds[5];
      const double burst = OneIn(3) ? Between(4, 12) : 1;
      double mean = 0;  // seconds of work in a request
      for (int i = 0; i < 50; ++i) mean += Work(MakeRequest(kind, client)) / 50;
      const double share = load_ / clients;
      double at = 0;
      while (true) {
        at += std::exponential_distribution<double>(share / mean / burst)(random_);
        if (at > seconds) break;
        for (int i = 0; i < burst; ++i) {
          const absl::Time when = absl::UnixEpoch() + absl::Seconds(at);
          arrivals.push_back({when, MakeRequest(kind, client)});
          Request& request = arrivals.back().request;
          const double patience =
              std::exp(Real(std::log(kind.patience_least), std::log(kind.patience_most)));
          request.deadline = when + absl::Seconds(0.2 + patience * Alone(request));
        }
      }
    }
    std::ranges::stable_sort(arrivals, {}, &Arrival::at);
    return arrivals;
  }

  const EngineOptions& options() const { return options_; }
  const StepModel& costs() const { return costs_; }
  bool OneIn(int times) { return Between(1, times) == 1; }

 private:
  int Between(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random_); }
  double Real(double low, double high) {
    return std::uniform_real_distribution<double>(low, high)(random_);
  }

  Request MakeRequest(const Kind& kind, int client) {
    Request request;
    request.client = std::to_string(client);
    request.prompt_tokens.assign(static_cast<size_t>(kind.shared_prompt), 1 + client);
    for (int i = Between(kind.prompt_least, kind.prompt_most); i > 0; --i) {
      request.prompt_tokens.push_back(Between(0, CoreBench::kVocab - 2));
    }
    request.max_tokens = Between(kind.tokens_least, kind.tokens_most);
    request.ignore_eos = !kind.ends_by_itself;
    request.sampling.seed = random_();
    if (kind.ends_by_itself) request.sampling.min_p = 0.01f;
    return request;
  }
  static double Tokens(const Request& request) {
    return request.ignore_eos ? request.max_tokens : 100;
  }
  double Prefill(const Request& request) const {
    const auto n = static_cast<double>(request.prompt_tokens.size());
    return n * costs_.prompt_row + n * n / 2 * costs_.prompt_context;
  }
  double Row(const Request& request) const {
    return costs_.decode_row +
           costs_.decode_context * static_cast<double>(request.prompt_tokens.size());
  }
  /// Seconds of the machine, whose steps hold others, too.
  double Work(const Request& request) const {
    const double beside = std::min(16, options_.max_running_sequences);
    return Prefill(request) + Tokens(request) * (costs_.base / beside + Row(request));
  }
  double Alone(const Request& request) const {
    return costs_.base + Prefill(request) + Tokens(request) * (costs_.base + Row(request));
  }

  std::mt19937_64 random_;
  double load_;
  EngineOptions options_;
  StepModel costs_;
};

/// Counts of requests.
struct Quality {
  int offered = 0;
  int refused = 0;  ///< for their deadline, at once or later
  int asked = 0;    ///< of these, how many were let in to see
  int wrong = 0;    ///< of these, ended with a third of their time to spare
  int close = 0;    ///< ended with less to spare, but a tenth
  int admitted = 0;
  int late = 0;  ///< of these, did not end in time
};

/// Runs servers below and beyond their capacity for so many hours.
Quality Measure(double hours, const std::vector<double>& loads) {
  constexpr double kSeconds = 120;
  constexpr size_t kProbes = 40;  // at most, or so
  Quality quality;
  const auto episodes = static_cast<unsigned>(std::ceil(hours * 3600 / kSeconds));
  for (unsigned seed = 0; seed < episodes; ++seed) {
    Episode episode(seed, loads[seed % loads.size()]);
    VirtualServer server(episode.options(), episode.costs());
    std::vector<Arrival> arrivals = episode.Arrivals(kSeconds);
    const int every = static_cast<int>(arrivals.size() / kProbes) + 1;
    server.SetProbing([&] { return episode.OneIn(every); });
    server.Run(std::move(arrivals));
    for (const Fate& fate : server.fates()) {
      ++quality.offered;
      const bool refused = fate.reason == ShedReason::kDeadline;
      const bool dropped = fate.reason == ShedReason::kOverdue;
      quality.refused += refused || dropped;
      quality.admitted += !fate.reason.has_value() || dropped;
      quality.late += fate.kind == Fate::Kind::kExpired || dropped;
    }
    for (const Probe& probe : server.Probes()) {
      ++quality.asked;
      if (probe.harmed > 0) continue;
      const bool wrong = probe.used_seconds * 1.5 < probe.left_seconds;
      quality.wrong += wrong;
      quality.close += !wrong && probe.used_seconds * 1.1 < probe.left_seconds;
      if (wrong && std::getenv("WINNOW_ADMISSION_DETAILS") != nullptr) {
        const auto& [at, request] = server.arrivals()[probe.arrival];
        std::printf("seed %u: at %.1f s, %zu + %d tokens, took %.2f of %.2f s\n", seed,
                    absl::ToDoubleSeconds(at - absl::UnixEpoch()), request.prompt_tokens.size(),
                    request.max_tokens, probe.used_seconds, probe.left_seconds);
      }
    }
  }
  const auto percent = [](int part, int whole) { return whole == 0 ? 0 : 100.0 * part / whole; };
  std::printf(
      "%d offered, %.2f %% refused; of %d asked %.2f %% wrongly, %.2f %% by little; "
      "of %d admitted %.2f %% late\n",
      quality.offered, percent(quality.refused, quality.offered), quality.asked,
      percent(quality.wrong, quality.asked), percent(quality.close, quality.asked),
      quality.admitted, percent(quality.late, quality.admitted));
  return quality;
}

double Hours() {
  const char* hours = std::getenv("WINNOW_ADMISSION_HOURS");
  return hours == nullptr ? 0.2 : std::atof(hours);
}

TEST(AdmissionQualityTest, BelowItsCapacity) {
  const Quality quality = Measure(Hours() / 2, {0.3, 0.6, 0.9});
  ASSERT_GT(quality.asked, 0);
  EXPECT_LT(quality.refused, 0.25 * quality.offered);
  EXPECT_LT(quality.wrong, 0.9 * quality.asked);
  EXPECT_LT(quality.late, 0.02 * quality.admitted);
}

TEST(AdmissionQualityTest, BeyondItsCapacity) {
  const Quality quality = Measure(Hours() / 2, {1.5, 4});
  ASSERT_GT(quality.asked, 0);
  EXPECT_LT(quality.wrong, 0.6 * quality.asked);
  EXPECT_LT(quality.late, 0.04 * quality.admitted);
}

}  // namespace
}  // namespace winnow
