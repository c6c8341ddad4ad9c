// Clients of all bad kinds against the real server, beside well-behaved ones whose answers are
// checked: chaos --seconds N. Then nothing may be left of them, and the server must end in order
// under load. Prints what was tried and measured; exits with 1 when something did not hold.

#include <atomic>
#include <cstdio>
#include <map>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "server/commands/flags.h"
#include "tests/chaos/bad_clients.h"
#include "tests/chaos/good_clients.h"
#include "tests/chaos/tokens.h"
#include "tests/engine/model/gguf_writer.h"
#include "tests/integration/client.h"
#include "tests/integration/server_process.h"

namespace winnow {
namespace {

constexpr absl::Duration kSettleLimit = absl::Seconds(60);
/// gRPC keeps some threads for the next calls, more after a burst, and what they wait on.
constexpr int kSpareThreads = 8;
constexpr int kSpareDescriptors = 4;

struct Options {
  int seconds = 60;
  int kills = 50;
  int good_clients = 2;
  int bad_clients = 8;
  int bad_requests = 1024;
  int seed = 1;
  int max_growth_mb = 64;
};

/// What did not hold, of all threads.
class Complaints {
 public:
  void Add(const std::string& complaint) {
    absl::MutexLock lock(&mutex_);
    if (++counts_[complaint] == 1) std::printf("WRONG: %s\n", complaint.c_str());
  }
  bool any() const {
    absl::MutexLock lock(&mutex_);
    return !counts_.empty();
  }

 private:
  mutable absl::Mutex mutex_;
  std::map<std::string, int> counts_ ABSL_GUARDED_BY(mutex_);
};

struct Footprint {
  int64_t resident_bytes = 0;
  int descriptors = 0;
  int threads = 0;
};

Footprint FootprintOf(ServerProcess& server) {
  return {server.resident_bytes(), server.open_descriptors(), server.threads()};
}

/// Waits until no more than so many descriptors are open. Connections that clients reset while
/// nothing was read from them are noticed by the server's keepalive, after 40 seconds at most.
void WaitForDescriptors(ServerProcess& server, int descriptors) {
  const absl::Time end = absl::Now() + kSettleLimit;
  while (server.open_descriptors() > descriptors && absl::Now() < end) {
    absl::SleepFor(absl::Milliseconds(100));
  }
}

void CheckIdle(ServerProcess& server, Complaints& complaints) {
  if (!server.BecomesIdle()) complaints.Add("requests or KV blocks are left: not idle");
}

void Print(const char* when, const Footprint& footprint) {
  std::printf("%-22s %6.1f MB resident, %d descriptors, %d threads\n", when,
              static_cast<double>(footprint.resident_bytes) / 1e6, footprint.descriptors,
              footprint.threads);
}

/// Bad clients of all kinds for so long; returns how many there were of each.
std::map<std::string, int> Storm(const std::string& address, const Options& options,
                                 absl::Duration duration, Complaints& complaints) {
  const std::span<const BadClient> kinds = BadClients();
  std::vector<std::atomic<int>> counts(kinds.size());
  const absl::Time end = absl::Now() + duration;
  std::vector<std::thread> threads;
  for (int i = 0; i < options.bad_clients; ++i) {
    threads.emplace_back([&, i] {
      std::mt19937 random(options.seed * 1000 + i);
      // Of those that hold on, at most half of the clients are, so that the others keep coming.
      const bool may_hold_on = i % 2 == 0;
      while (absl::Now() < end) {
        const size_t kind = random() % kinds.size();
        if (kinds[kind].holds_on && !may_hold_on) continue;
        const std::string complaint = kinds[kind].act(address, random);
        if (!complaint.empty()) complaints.Add(absl::StrCat(kinds[kind].name, ": ", complaint));
        ++counts[kind];
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::map<std::string, int> by_name;
  for (size_t kind = 0; kind < kinds.size(); ++kind) by_name[kinds[kind].name] = counts[kind];
  return by_name;
}

/// Starts `winnow generate` so many times and kills it with SIGKILL once its text comes.
void KillMidStream(const std::string& address, int kills, Complaints& complaints) {
  const TemporaryFile token(std::as_bytes(std::span(std::string_view(kGoodToken))));
  std::atomic<int> left = kills;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      while (left-- > 0) {
        ChildProcess client(
            WinnowCommand({"generate", "--address", address, "--token-file", token.path(),
                           "--prompt", "The history of bread begins", "--max-tokens", "450",
                           "--temperature", "0", "--ignore-eos"}));
        const absl::Time end = absl::Now() + kCallLimit;
        while (client.Output().empty() && !client.ExitStatus() && absl::Now() < end) {
          absl::SleepFor(absl::Milliseconds(2));
        }
        if (client.ExitStatus()) complaints.Add("a client ended by itself: " + client.Output());
      }  // killed here
    });
  }
  for (std::thread& thread : threads) thread.join();
}

void CheckGood(const GoodReport& report, Complaints& complaints) {
  for (const std::string& failure : report.failures) complaints.Add("a good client got " + failure);
  if (report.answered == 0) complaints.Add("no good client had an answer");
}

void Print(const char* when, const GoodReport& report) {
  std::printf(
      "%-22s %d answers, %d lost or wrong, %d retries; TTFT p50 %.3f p99 %.3f s; total p50 "
      "%.3f p99 %.3f s\n",
      when, report.answered, static_cast<int>(report.failures.size()), report.retried,
      Quantile(report.ttft_seconds, 0.5), Quantile(report.ttft_seconds, 0.99),
      Quantile(report.total_seconds, 0.5), Quantile(report.total_seconds, 0.99));
}

void CheckFootprint(const Footprint& before, const Footprint& after, const Options& options,
                    Complaints& complaints) {
  if (after.descriptors > before.descriptors + kSpareDescriptors) {
    complaints.Add(
        absl::StrCat(after.descriptors, " descriptors are open, before ", before.descriptors));
  }
  if (after.threads > before.threads + kSpareThreads) {
    complaints.Add(absl::StrCat(after.threads, " threads, before ", before.threads));
  }
  const int64_t growth = after.resident_bytes - before.resident_bytes;
  if (growth > int64_t{options.max_growth_mb} << 20) {
    complaints.Add(absl::StrCat("memory has grown by ", growth / 1'000'000, " MB"));
  }
}

/// SIGTERM while streams run and more clients come: whoever had a token gets all of them, and the
/// others an answer that says that the server is going away.
void TerminateUnderLoad(ServerProcess& server, Complaints& complaints) {
  constexpr int kClients = 12, kTokens = 40;
  std::atomic<int> started = 0, finished = 0, refused = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < kClients; ++i) {
    threads.emplace_back([&] {
      const auto stub = v1::GenerationService::NewStub(Connect(server.address(), kGoodToken));
      while (true) {
        Stream stream(*stub, Greedy("A list of cities:", kTokens));
        if (stream.ReadTokens(1)) ++started;
        const Generation& generation = stream.Finish();
        const grpc::StatusCode code = generation.status.error_code();
        if (code == grpc::StatusCode::OK && generation.tokens() == kTokens) {
          ++finished;
        } else if (code == grpc::StatusCode::UNAVAILABLE && generation.tokens() == 0) {
          ++refused;
          return;
        } else if (code != grpc::StatusCode::RESOURCE_EXHAUSTED) {
          complaints.Add(absl::StrCat("a call under SIGTERM ended with code ",
                                      static_cast<int>(code), " after ", generation.tokens(),
                                      " tokens: ", generation.status.error_message()));
          return;
        }
      }
    });
  }
  const absl::Time limit = absl::Now() + kCallLimit;
  while (started < kClients / 2 && absl::Now() < limit) absl::SleepFor(absl::Milliseconds(5));
  server.Terminate();
  for (std::thread& thread : threads) thread.join();
  const std::optional<int> exit_status = server.Wait();
  std::printf("%-22s %d calls finished, %d refused; exit status %s\n", "SIGTERM under load",
              finished.load(), refused.load(),
              exit_status ? absl::StrCat(*exit_status).c_str() : "none: it still runs");
  if (exit_status != 0) complaints.Add("the server did not end in order: " + server.Log());
}

int RunChaos(const Options& options) {
  const std::string token_text = TokenFile(options.bad_requests);
  const TemporaryFile tokens(std::as_bytes(std::span(token_text)));
  auto started =
      ServerProcess::Start({"--auth-tokens", tokens.path(), "--max-context", "512", "--kv-tokens",
                            "8192", "--max-running", "32", "--max-waiting", "512",
                            "--drain-seconds", "120", "--log-level", "info"});
  if (!started.ok()) {
    std::printf("%s\n", std::string(started.status().message()).c_str());
    return 1;
  }
  ServerProcess& server = **started;
  Complaints complaints;
  GoodClients good(server.address());
  if (!good.Learn()) complaints.Add("the idle server did not answer");
  const int idle_descriptors = server.open_descriptors() + kSpareDescriptors;
  const absl::Duration duration = absl::Seconds(options.seconds);

  // Once, so that what is kept for later is there: threads, buffers, pages of the heap.
  Storm(server.address(), options, duration / 6, complaints);
  good.Start(options.good_clients);
  absl::SleepFor(duration / 6);
  const GoodReport quiet = good.Stop();
  Print("quiet", quiet);
  CheckGood(quiet, complaints);
  CheckIdle(server, complaints);
  WaitForDescriptors(server, idle_descriptors);
  const Footprint before = FootprintOf(server);
  Print("before", before);

  good.Start(options.good_clients);
  int total = 0;
  const auto counts = Storm(server.address(), options, duration, complaints);
  for (const auto& [name, count] : counts) {
    std::printf("    %6d  %s\n", count, name.c_str());
    total += count;
  }
  const GoodReport stormy = good.Stop();
  Print(absl::StrCat(total, " bad clients").c_str(), stormy);
  CheckGood(stormy, complaints);
  CheckIdle(server, complaints);
  Print("after", FootprintOf(server));

  good.Start(options.good_clients);
  KillMidStream(server.address(), options.kills, complaints);
  const GoodReport killed = good.Stop();
  Print(absl::StrCat(options.kills, " kill -9").c_str(), killed);
  CheckGood(killed, complaints);
  CheckIdle(server, complaints);
  WaitForDescriptors(server, idle_descriptors);
  const Footprint after = FootprintOf(server);
  Print("after", after);
  CheckFootprint(before, after, options, complaints);

  TerminateUnderLoad(server, complaints);
  std::printf("chaos: %s\n", complaints.any() ? "FAILED" : "passed");
  return complaints.any() ? 1 : 0;
}

}  // namespace
}  // namespace winnow

int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  winnow::Options options;
  winnow::FlagSet flags("chaos", "Tries what clients can do to the server.");
  flags.Add("seconds", &options.seconds, "N", "How long the bad clients come.", {1, 86400});
  flags.Add("kills", &options.kills, "N", "Clients that are killed mid-stream.", {1, 1'000'000});
  flags.Add("good-clients", &options.good_clients, "N", "Clients whose answers are checked.",
            {1, 64});
  flags.Add("bad-clients", &options.bad_clients, "N", "Bad clients at a time.", {1, 256});
  flags.Add("bad-requests", &options.bad_requests, "N",
            "Requests that the bad clients' token allows at a time, all of them together.",
            {1, 1024});
  flags.Add("seed", &options.seed, "N", "What the bad clients do.");
  flags.Add("max-growth-mb", &options.max_growth_mb, "N",
            "By how much the server's resident memory may grow.", {0, 1 << 20});
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  if (const auto exit_code = winnow::ParseOrExitCode(flags, arguments)) return *exit_code;
  return winnow::RunChaos(options);
}
