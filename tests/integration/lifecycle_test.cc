// Start, load, drain and end of the real server.

#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>

#include <atomic>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "tests/chaos/raw_connection.h"
#include "tests/integration/client.h"
#include "tests/integration/server_process.h"
#include "winnow/v1/model.grpc.pb.h"

namespace winnow {
namespace {

using grpc::health::v1::Health;
using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;

/// A server of its own for each test, and stubs for it.
class LifecycleTest : public testing::Test {
 protected:
  void Start(const std::vector<std::string>& flags, const std::vector<std::string>& wrapper = {}) {
    auto server = ServerProcess::Start(flags, wrapper);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    const auto channel = Connect(server_->address());
    generation_ = v1::GenerationService::NewStub(channel);
    health_ = Health::NewStub(channel);
  }

  HealthCheckResponse::ServingStatus CheckHealth(const std::string& service = "") {
    grpc::ClientContext call;
    HealthCheckRequest request;
    request.set_service(service);
    HealthCheckResponse response;
    const grpc::Status status = health_->Check(&call, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response.status();
  }

  std::unique_ptr<ServerProcess> server_;
  std::unique_ptr<v1::GenerationService::Stub> generation_;
  std::unique_ptr<Health::Stub> health_;
};

TEST_F(LifecycleTest, StartsQuicklyAndHoldsLittleMoreThanTheModelAndTheKvPool) {
  constexpr int64_t kKvTokens = 1024;
  constexpr int64_t kKvBytesPerToken = 23040;  // 30 layers, 2 x 3 heads of 64 in fp16
  ASSERT_NO_FATAL_FAILURE(Start({"--max-context", "1024", "--kv-tokens", "1024"}));
  EXPECT_EQ(CheckHealth(), HealthCheckResponse::SERVING);
  const int64_t started_bytes = server_->resident_bytes();
  std::string prompt;
  for (int i = 0; i < 700; ++i) prompt += " word";
  v1::GenerateRequest request = Greedy(prompt, 20);
  request.set_n(4);
  EXPECT_TRUE(Complete(*generation_, request).status.ok());

  const auto file_bytes = static_cast<int64_t>(std::filesystem::file_size(DemoModelPath()));
  const int64_t limit = file_bytes * 13 / 10 + kKvTokens * kKvBytesPerToken + 100'000'000;
  EXPECT_LE(server_->peak_resident_bytes(), limit);
  std::cout << "healthy after " << absl::ToDoubleSeconds(server_->startup_time()) << " s; resident "
            << started_bytes / 1'000'000 << " MB at first, "
            << server_->resident_bytes() / 1'000'000 << " MB after requests, at most "
            << server_->peak_resident_bytes() / 1'000'000 << " MB; limit " << limit / 1'000'000
            << " MB\n";
  RecordProperty("startup_seconds", std::to_string(absl::ToDoubleSeconds(server_->startup_time())));
}

TEST_F(LifecycleTest, SigtermLetsRunningStreamsFinishAndRefusesNewOnes) {
  ASSERT_NO_FATAL_FAILURE(
      Start({"--max-context", "2048", "--kv-tokens", "8192", "--drain-seconds", "600"}));
  grpc::ClientContext watch_call;
  const auto watch = health_->Watch(&watch_call, HealthCheckRequest());
  HealthCheckResponse health;
  ASSERT_TRUE(watch->Read(&health));
  EXPECT_EQ(health.status(), HealthCheckResponse::SERVING);
  // They go on until they are read to their end.
  Stream first(*generation_, Wide("The history of bread begins", 240));
  Stream second(*generation_, Wide("The history of wine begins", 240));
  ASSERT_TRUE(first.ReadTokens(2));
  ASSERT_TRUE(second.ReadTokens(2));

  server_->Terminate();
  ASSERT_TRUE(watch->Read(&health));
  EXPECT_EQ(health.status(), HealthCheckResponse::NOT_SERVING);
  EXPECT_EQ(CheckHealth(), HealthCheckResponse::NOT_SERVING);
  EXPECT_EQ(CheckHealth("winnow.v1.GenerationService"), HealthCheckResponse::NOT_SERVING);
  Generation refused;  // not until just after health has changed
  do {
    refused = Generate(*generation_, Greedy("x", 1));
  } while (refused.status.ok());
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::UNAVAILABLE)
      << refused.status.error_message();
  EXPECT_EQ(server_->Metric("winnow_requests_rejected_total{code=\"UNAVAILABLE\"}"), 1);

  for (Stream* stream : {&first, &second}) {
    const Generation& finished = stream->Finish();
    EXPECT_TRUE(finished.status.ok()) << finished.status.error_message();
    EXPECT_EQ(finished.tokens(), 8 * 240);
    EXPECT_EQ(finished.continuations.at(0).finish_reason, v1::FINISH_REASON_LENGTH);
  }
  EXPECT_EQ(server_->Wait(), 0) << server_->Log();
}

TEST_F(LifecycleTest, DrainingEndsWhatOutlivesItsLimit) {
  ASSERT_NO_FATAL_FAILURE(
      Start({"--max-context", "2048", "--kv-tokens", "4096", "--drain-seconds", "0.01"}));
  Stream long_one(*generation_, Greedy("The history of bread begins", 2000));
  Stream unread(*generation_, Wide("A list of cities:", 240));
  ASSERT_TRUE(long_one.ReadTokens(2));
  ASSERT_TRUE(unread.ReadTokens(1));
  server_->Terminate();
  EXPECT_EQ(long_one.Finish().status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_GE(long_one.generation().tokens(), 2);
  EXPECT_EQ(server_->Wait(), 0) << server_->Log();
}

TEST_F(LifecycleTest, ASecondSignalEndsTheServerAtOnce) {
  ASSERT_NO_FATAL_FAILURE(Start({"--max-context", "2048", "--kv-tokens", "4096"}));
  Stream running(*generation_, Wide("The history of bread begins", 240));
  ASSERT_TRUE(running.ReadTokens(1));
  server_->Terminate();
  EXPECT_TRUE(Becomes([&] { return CheckHealth() != HealthCheckResponse::SERVING; }));
  server_->Terminate();
  EXPECT_EQ(server_->Wait(), 1) << server_->Log();
  EXPECT_EQ(running.Finish().status.error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(LifecycleTest, OnlyTheMainThreadTakesSignals) {
  ASSERT_NO_FATAL_FAILURE(Start({"--max-context", "2048", "--kv-tokens", "4096"}));
  EXPECT_TRUE(Generate(*generation_, Greedy("x", 1)).status.ok());
  for (const int signal : {SIGTERM, SIGINT}) {
    // The kernel lets them through while the main thread waits for them.
    EXPECT_THAT(server_->ThreadsOpenTo(signal),
                testing::AnyOf(testing::IsEmpty(), testing::ElementsAre("winnow")));
  }
}

TEST_F(LifecycleTest, AnIdleServerStopsServingThoughClientsAreConnected) {
  ASSERT_NO_FATAL_FAILURE(
      Start({"--max-context", "2048", "--kv-tokens", "4096", "--drain-seconds", "600"}));
  EXPECT_TRUE(Generate(*generation_, Greedy("x", 1)).status.ok());
  server_->Terminate();
  EXPECT_EQ(server_->Wait(), 0) << server_->Log();
  EXPECT_THAT(server_->Log(), testing::HasSubstr("event=stopped"));
}

TEST_F(LifecycleTest, AFullQueueRefusesWithADelay) {
  ASSERT_NO_FATAL_FAILURE(Start({"--max-context", "2048", "--kv-tokens", "4096", "--max-running",
                                 "1", "--max-waiting", "1"}));
  Stream running(*generation_, Greedy("The history of bread begins", 2000));
  ASSERT_TRUE(running.ReadTokens(1));
  grpc::ClientContext waiting_call;  // without a deadline
  v1::GenerateResponse waiting;
  grpc::Status waiting_status;
  std::thread waiter(
      [&] { waiting_status = generation_->Complete(&waiting_call, Greedy("x", 5), &waiting); });
  EXPECT_TRUE(server_->MetricBecomes("winnow_requests_waiting", 1));
  const Generation refused = Complete(*generation_, Greedy("x", 1));
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED)
      << refused.status.error_message();
  EXPECT_GT(RetryDelay(refused.status), absl::ZeroDuration());
  EXPECT_EQ(server_->Metric("winnow_requests_shed_total{reason=\"queue_requests\"}"), 1);
  running.Cancel();
  waiter.join();
  EXPECT_TRUE(waiting_status.ok()) << waiting_status.error_message();
  running.Finish();
  EXPECT_TRUE(server_->BecomesIdle());
  EXPECT_TRUE(Generate(*generation_, Greedy("x", 1)).status.ok());
}

TEST_F(LifecycleTest, LimitsAreThoseOfTheFlags) {
  ASSERT_NO_FATAL_FAILURE(Start({"--max-context", "512", "--kv-tokens", "1024",
                                 "--max-prompt-tokens", "100", "--max-n", "2", "--max-stop-strings",
                                 "1", "--max-logit-bias", "0", "--max-message-bytes", "2000"}));
  v1::GenerateRequest request = Greedy("", 1);
  request.set_n(3);
  for (const char* stop : {"a", "b"}) request.mutable_stop()->add_strings(stop);
  (*request.mutable_sampling()->mutable_logit_bias())[1] = 1;
  request.mutable_tokens()->mutable_ids()->Resize(101, 5);
  const Generation refused = Generate(*generation_, request);
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(ViolatedFields(refused.status),
              testing::UnorderedElementsAre("tokens", "n", "stop.strings", "sampling.logit_bias"));
  EXPECT_EQ(Complete(*generation_, Greedy(std::string(2000, 'x'), 1)).status.error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
  const auto stub = v1::ModelService::NewStub(Connect(server_->address()));
  grpc::ClientContext call;
  v1::Model model;
  ASSERT_TRUE(stub->GetModel(&call, v1::GetModelRequest(), &model).ok());
  EXPECT_EQ(model.limits().prompt_tokens(), 100);
  EXPECT_EQ(model.limits().n(), 2);
  EXPECT_EQ(model.limits().stop_strings(), 1);
  EXPECT_EQ(model.limits().logit_bias_entries(), 0);
}

TEST_F(LifecycleTest, AConnectionCarriesNoMoreStreamsThanTheLimit) {
  ASSERT_NO_FATAL_FAILURE(
      Start({"--max-context", "2048", "--kv-tokens", "4096", "--max-streams-per-connection", "1"}));
  EXPECT_TRUE(Generate(*generation_, Greedy("x", 1)).status.ok());  // the client knows the limit
  Stream running(*generation_, Wide("The history of bread begins", 240));
  ASSERT_TRUE(running.ReadTokens(1));
  Stream waiting(*generation_, Greedy("x", 1), absl::Seconds(1));
  EXPECT_EQ(waiting.Finish().status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  const auto other = v1::GenerationService::NewStub(Connect(server_->address()));
  EXPECT_TRUE(Generate(*other, Greedy("x", 1)).status.ok());
  running.Cancel();
  running.Finish();
  EXPECT_TRUE(Generate(*generation_, Greedy("x", 1)).status.ok());
}

/// Clients that make one request after the other, each on a connection of its own, and retry what
/// was refused before it ran.
class SteadyClients {
 public:
  SteadyClients(const std::string& address, int count) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    arguments.SetServiceConfigJSON(R"({"methodConfig": [{"name": [{}], "retryPolicy": {
        "maxAttempts": 5, "initialBackoff": "0.1s", "maxBackoff": "1s", "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"]}}]})");
    for (int i = 0; i < count; ++i) {
      threads_.emplace_back([this, address, arguments] {
        const auto stub = v1::GenerationService::NewStub(
            grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments));
        while (!stopping_) {
          const grpc::Status status = Complete(*stub, Greedy("x", 3)).status;
          ++requests_;
          if (status.ok()) continue;
          ++failures_;
          ADD_FAILURE() << status.error_code() << ": " << status.error_message();
        }
      });
    }
  }
  /// Returns once that many requests more were answered.
  void Await(int requests) const {
    const int end = requests_ + requests;
    while (requests_ < end) absl::SleepFor(absl::Milliseconds(5));
  }
  int Stop() {
    stopping_ = true;
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
    return requests_;
  }
  int failures() const { return failures_; }

 private:
  std::atomic<bool> stopping_ = false;
  std::atomic<int> requests_ = 0;
  std::atomic<int> failures_ = 0;
  std::vector<std::thread> threads_;
};

TEST_F(LifecycleTest, ServersInTurnOnOnePortLoseNoRequest) {
  std::vector<std::string> flags = {"--max-context",
                                    "512",
                                    "--kv-tokens",
                                    "2048",
                                    "--reuse-port",
                                    "--max-connection-age-seconds",
                                    "1",
                                    "--lame-duck-seconds",
                                    "3"};
  ASSERT_NO_FATAL_FAILURE(Start(flags));
  flags.insert(flags.end(), {"--address", server_->address()});
  SteadyClients clients(server_->address(), 8);
  clients.Await(50);
  for (int turn = 0; turn < 3; ++turn) {
    auto successor = ServerProcess::Start(flags);
    ASSERT_TRUE(successor.ok()) << successor.status();
    server_->Terminate();
    EXPECT_EQ(server_->Wait(), 0) << server_->Log();
    server_ = *std::move(successor);
    clients.Await(50);
  }
  const int requests = clients.Stop();
  EXPECT_EQ(clients.failures(), 0) << "of " << requests;
  std::cout << requests << " requests while three servers took over from each other\n";
}

TEST_F(LifecycleTest, AClientThatStopsReadingIsCutOffAndOthersAreNot) {
  ASSERT_NO_FATAL_FAILURE(
      Start({"--max-context", "2048", "--kv-tokens", "4096", "--slow-reader-seconds", "1"}));
  Stream unread(*generation_, Wide("A list of cities:", 240));
  ASSERT_TRUE(unread.ReadTokens(1));
  EXPECT_TRUE(server_->MetricBecomes("winnow_rpcs_total{code=\"ABORTED\",method=\"Generate\"}", 1));
  EXPECT_TRUE(server_->BecomesIdle());
  const Generation& cut = unread.Finish();
  EXPECT_EQ(cut.status.error_code(), grpc::StatusCode::ABORTED) << cut.status.error_message();
  EXPECT_THAT(cut.status.error_message(), testing::HasSubstr("read nothing for 1 seconds"));
  EXPECT_TRUE(Generate(*generation_, Greedy("x", 20)).status.ok());
}

/// Connections that say nothing.
std::vector<std::unique_ptr<RawConnection>> IdleConnections(const std::string& address, int count) {
  std::vector<std::unique_ptr<RawConnection>> connections;
  for (int i = 0; i < count; ++i) connections.push_back(std::make_unique<RawConnection>(address));
  return connections;
}

TEST_F(LifecycleTest, ConnectionsBeyondTheDescriptorsAreRefusedAndThoseThatComeLaterServed) {
  ASSERT_NO_FATAL_FAILURE(Start({"--max-context", "512", "--kv-tokens", "1024"},
                                {"sh", "-c", "ulimit -n 200; exec \"$@\"", "sh"}));
  const char* const refused = "winnow_connections_refused_total";
  EXPECT_TRUE(Generate(*generation_, Greedy("x", 1)).status.ok());
  {
    const auto idle = IdleConnections(server_->address(), 300);
    EXPECT_TRUE(Becomes([&] { return server_->Metric(refused).value_or(0) >= 100; }));
    EXPECT_TRUE(Generate(*generation_, Greedy("x", 1)).status.ok()) << "who is connected stays";
    EXPECT_FALSE(server_->ScrapeMetrics().empty());
  }
  const auto later = v1::GenerationService::NewStub(Connect(server_->address()));
  grpc::ClientContext call;
  call.set_wait_for_ready(true);
  call.set_deadline(absl::ToChronoTime(absl::Now() + kHangLimit));
  v1::GenerateResponse response;
  EXPECT_EQ(later->Complete(&call, Greedy("x", 1), &response).error_message(), "");
  EXPECT_TRUE(server_->Logs("level=warning event=connections_refused"));
}

TEST_F(LifecycleTest, TheSystemsLimitOfDescriptorsBoundsConnectionsNotTheShells) {
  ASSERT_NO_FATAL_FAILURE(Start({"--max-context", "512", "--kv-tokens", "1024"},
                                {"sh", "-c", "ulimit -Sn 100; exec \"$@\"", "sh"}));
  const auto idle = IdleConnections(server_->address(), 300);
  grpc::ClientContext call;
  call.set_deadline(absl::ToChronoTime(absl::Now() + kHangLimit));
  v1::GenerateResponse response;
  EXPECT_EQ(generation_->Complete(&call, Greedy("x", 1), &response).error_message(), "");
  EXPECT_EQ(server_->Metric("winnow_connections_refused_total"), 0);
}

TEST_F(LifecycleTest, AClientThatStopsReadingIsCutOffDuringTheLameDuckAndTheDrain) {
  for (const char* phase : {"--lame-duck-seconds", "--drain-seconds"}) {
    SCOPED_TRACE(phase);
    ASSERT_NO_FATAL_FAILURE(Start({"--max-context", "2048", "--kv-tokens", "4096",
                                   "--slow-reader-seconds", "1", phase, "600"}));
    Stream unread(*generation_, Wide("A list of cities:", 240));
    ASSERT_TRUE(unread.ReadTokens(1));
    server_->Terminate();
    // A drained server ends by itself once the call has.
    const bool drains = phase == std::string("--drain-seconds");
    if (drains) {
      EXPECT_EQ(server_->Wait(), 0) << server_->Log();
    } else {
      EXPECT_TRUE(
          server_->MetricBecomes("winnow_rpcs_total{code=\"ABORTED\",method=\"Generate\"}", 1));
    }
    EXPECT_EQ(unread.Finish().status.error_code(), grpc::StatusCode::ABORTED);
  }
}

TEST_F(LifecycleTest, RefusesWhatCannotEndBeforeItsDeadline) {
  ASSERT_NO_FATAL_FAILURE(
      Start({"--max-context", "2048", "--kv-tokens", "4096", "--max-running", "1"}));
  // What runs takes ten times as long as this. A second of steps makes their costs known.
  absl::Duration limit;
  for (absl::Duration known; known < absl::Seconds(1.5); known += limit) {
    const Generation measured = Generate(*generation_, Greedy("The history of wine begins", 200));
    ASSERT_TRUE(measured.status.ok()) << measured.status.error_message();
    limit = absl::Seconds(measured.summary.timings().total_seconds());
  }
  Stream running(*generation_, Greedy("The history of bread begins", 2000));
  ASSERT_TRUE(running.ReadTokens(1));
  Stream late(*generation_, Greedy("x", 5), limit);
  const Generation& refused = late.Finish();
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED)
      << refused.status.error_message();
  EXPECT_GT(RetryDelay(refused.status), absl::ZeroDuration());
  EXPECT_EQ(server_->Metric("winnow_requests_shed_total{reason=\"deadline\"}"), 1);
  running.Cancel();
  running.Finish();
}

TEST_F(LifecycleTest, PrioritiesAreWithinTheOperatorsLimits) {
  ASSERT_NO_FATAL_FAILURE(
      Start({"--max-context", "512", "--kv-tokens", "1024", "--min-priority", "-2"}));
  for (const auto& [priority, ok] : {std::pair(-3, false), {-2, true}, {100, true}, {101, false}}) {
    v1::GenerateRequest request = Greedy("x", 1);
    request.set_priority(priority);
    const Generation generation = Generate(*generation_, request);
    EXPECT_EQ(generation.status.ok(), ok) << priority;
    EXPECT_EQ(ViolatedFields(generation.status),
              ok ? std::vector<std::string>() : std::vector<std::string>{"priority"});
  }
}

TEST_F(LifecycleTest, AStepBeyondItsTimeoutEndsTheServerForItsSupervisor) {
  // No prompt of 6000 tokens is computed before the server next looks.
  ASSERT_NO_FATAL_FAILURE(Start({"--max-context", "8192", "--kv-tokens", "8192",
                                 "--max-step-tokens", "8192", "--step-timeout", "0.02"}));
  std::string prompt;
  for (int i = 0; i < 6000; ++i) prompt += " word";
  const Generation generation = Generate(*generation_, Greedy(prompt, 20));
  EXPECT_EQ(generation.status.error_code(), grpc::StatusCode::UNAVAILABLE)
      << generation.status.error_message();
  EXPECT_EQ(server_->Wait(), 1) << server_->Log();
  EXPECT_THAT(server_->Log(), testing::ContainsRegex(
                                  "event=unhealthy .*step of [0-9]+ prompt and 0 generated tokens; "
                                  "[01] requests running"));
}

TEST_F(LifecycleTest, AConfigFileTakesTheNamesOfTheFlagsAndTheCommandLineWins) {
  const std::filesystem::path path = std::filesystem::path(testing::TempDir()) / "winnow_test.yaml";
  std::ofstream(path) << "# limits\nmodel-name: from-file\nmax-context = 512\nkv-tokens: auto\n";
  ASSERT_NO_FATAL_FAILURE(Start({"--config", path.string(), "--max-context", "256"}));
  std::filesystem::remove(path);
  const auto stub = v1::ModelService::NewStub(Connect(server_->address()));
  grpc::ClientContext call;
  v1::Model model;
  ASSERT_TRUE(stub->GetModel(&call, v1::GetModelRequest(), &model).ok());
  EXPECT_EQ(model.name(), "from-file");
  EXPECT_EQ(model.context_tokens(), 256);
  EXPECT_TRUE(server_->MetricBecomes("winnow_kv_blocks{state=\"free\"}", 16384 / 32));
}

}  // namespace
}  // namespace winnow
