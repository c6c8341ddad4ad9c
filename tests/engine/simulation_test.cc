// The engine under random workloads: tiny pools and queues, n > 1, cancellations, deadlines,
// priorities, clients, slow readers, common prefixes, host tiers, drafts, in virtual time and
// without threads. Every continuation must be what the model answers to it alone, whatever else
// went on.
//
//     WINNOW_SIMULATION_SEEDS=1000000 simulation_test     more seeds than in a test run
//     WINNOW_SIMULATION_SEED=17 simulation_test           only this one, which had failed

#include <gtest/gtest.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "engine/request/refusal.h"
#include "engine/request/request_check.h"
#include "engine/scheduling/admission.h"
#include "engine/scheduling/prompt_shares.h"
#include "tests/engine/fakes.h"

namespace winnow {
namespace {

/// Printed also when a broken invariant ends the process.
volatile unsigned current_seed = 0;

enum class Reader { kQuick, kUnsteady, kStuck };

struct Client {
  Request request;
  int64_t arrival = -1;  ///< in the order of submission
  absl::Time submitted_at;
  RecordingSink sink;
  Reader reader = Reader::kQuick;
  int arrival_step = 0;
  int cancel_step = -1;
  bool submitted = false;
  bool refused = false;  ///< at once
  int due_rows = 0;      ///< that steps have owed to its prompt

  bool over() const { return sink.summary.has_value(); }
  bool started() const { return sink.summary->queue_seconds > 0; }
  absl::Time start() const { return submitted_at + absl::Seconds(sink.summary->queue_seconds); }
  absl::Time end() const { return submitted_at + absl::Seconds(sink.summary->total_seconds); }
};

class Simulation {
 public:
  explicit Simulation(unsigned seed)
      : random_(seed), options_(RandomOptions()), bench_(options_, RandomWindows()) {
    const int clients = OneIn(4) ? Between(10, 40) : Between(1, 12);
    // Steps take time, or all estimates would be nothing.
    bench_.model.before_forward = [this](const StepBatch& batch) {
      bench_.now += absl::Milliseconds(100 + Between(10, 30) * batch.rows());
      return absl::OkStatus();
    };
    while (static_cast<int>(clients_.size()) < clients) AddClient();
    if (OneIn(2)) {
      drafter_.emplace(bench_.model, seed, Between(1, 6));
      bench_.core.SetDrafter(&*drafter_);
    }
  }

  void Run() {
    int work_tokens = 0;
    for (const auto& client : clients_) {
      work_tokens += client->request.n * LongestSequence(client->request, options_);
    }
    // Every step computes something for somebody; recomputation after preemption comes on top.
    const int bound = 200 + 20 * work_tokens;
    for (int step = 0; !AllOver(); ++step) {
      ASSERT_LT(step, bound) << "somebody starves";
      for (const auto& client : clients_) Act(*client, step);
      bench_.now += absl::Milliseconds(1);  // who is started has waited
      Step moment = Before();
      const bool worked = bench_.Step();
      moment.prompt_rows = worked ? bench_.observer.steps.back().prefill_tokens : 0;
      NoteShares(moment);
      ++steps_;
      CheckBounds();
      ASSERT_EQ(bench_.model.corruptions(), 0);
      ASSERT_TRUE(worked || NobodyCouldGoOn()) << "idle at step " << step;
      if (!worked) ReleaseStuckReaders(step);
    }
    Check();
  }

  int preemptions() const { return bench_.observer.preemptions; }
  const HostTraffic& host_traffic() const { return bench_.core.store().host_traffic(); }
  int cached_tokens() const { return cached_tokens_; }
  /// Steps in which a request without a token yet was due a share of the prompts' rows.
  int shares() const { return shares_; }
  int steps() const { return steps_; }
  /// Tokens that came together with the one before, and rows of drafts that did not stay.
  int64_t drafts_kept() const {
    int64_t kept = 0;
    for (const auto& client : clients_) kept += client->sink.tokens_beside_others;
    return kept;
  }
  int64_t drafts_rejected() const {
    if (!drafter_.has_value()) return 0;
    int64_t rows = 0;
    for (const StepStats& step : bench_.observer.steps) rows += step.decode_tokens;
    for (const RequestSummary& summary : bench_.observer.finished) rows -= summary.generated_tokens;
    return std::max<int64_t>(0, rows);  // a lower bound: first tokens have no row that decodes
  }
  int shed(ShedReason reason) const {
    return static_cast<int>(std::ranges::count_if(clients_, [&](const auto& client) {
      const auto details = DetailsOf(client->sink.summary->status);
      return details.has_value() && details->reason == reason;
    }));
  }

 private:
  int Between(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random_); }
  bool OneIn(int times) { return Between(1, times) == 1; }
  float Real(float low, float high) {
    return std::uniform_real_distribution<float>(low, high)(random_);
  }

  EngineOptions RandomOptions() {
    EngineOptions options;
    options.block_tokens = Between(1, 8);
    options.kv_blocks = Between(2, OneIn(2) ? 12 : 40);
    options.max_context = Between(4, 64);
    options.max_step_tokens = OneIn(4) ? Between(1, 4) : Between(8, 40);
    options.max_running_sequences = Between(1, 10);
    if (OneIn(2)) options.host_slots = Between(1, OneIn(2) ? 10 : 100);
    if (OneIn(3)) options.max_waiting_requests = Between(1, 6);
    if (OneIn(3)) options.max_waiting_tokens = Between(10, 200);
    return options;
  }

  // Of groups of layers: most models have one, without a window.
  std::vector<int> RandomWindows() {
    if (OneIn(2)) return {0};
    std::vector<int> windows(static_cast<size_t>(Between(1, 4)));
    const int window = Between(1, OneIn(2) ? 6 : 30);
    for (int& each : windows) each = OneIn(3) ? 0 : window;
    return windows;
  }

  void AddClient() {
    auto client = std::make_unique<Client>();
    Request& request = client->request;
    request.id = clients_.size() + 1;
    request.prompt_tokens.resize(static_cast<size_t>(Between(1, OneIn(3) ? 50 : 10)));
    // Most prompts begin alike, some for long.
    const int letters = OneIn(3) ? CoreBench::kVocab - 1 : OneIn(2) ? 1 : 0;
    for (int32_t& token : request.prompt_tokens) token = Between(0, letters);
    if (OneIn(4)) request.cache_salt = Word(1);
    request.max_tokens = Between(1, OneIn(3) ? 60 : 15);
    request.n = OneIn(3) ? Between(2, 5) : 1;
    request.ignore_eos = OneIn(2);
    if (OneIn(3)) {
      for (int i = Between(1, 2); i > 0; --i) request.stop.push_back(Word(Between(1, 2)));
    }
    if (OneIn(6)) request.stop_token_ids = {Between(0, CoreBench::kVocab - 1)};
    request.logprobs = OneIn(3);
    request.sampling.seed = random_();
    if (OneIn(2)) request.sampling.temperature = OneIn(2) ? 0 : Real(0.3f, 2);
    if (OneIn(4)) request.sampling.repetition_penalty = Real(0.7f, 1.5f);
    if (OneIn(4)) request.sampling.frequency_penalty = Real(-0.5f, 0.5f);
    if (OneIn(4)) request.sampling.top_k = Between(1, 8);
    if (OneIn(4)) request.sampling.top_p = Real(0.3f, 0.95f);
    if (!CheckRequest(request, options_, CoreBench::kVocab).ok()) return;

    client->sink = RecordingSink(request.n);
    client->arrival_step = OneIn(2) ? 0 : Between(0, 60);
    if (OneIn(6)) client->cancel_step = client->arrival_step + Between(0, 40);
    if (has_deadlines_ && OneIn(3)) {
      request.deadline = bench_.now + absl::Seconds(2 * client->arrival_step + Between(0, 80));
    }
    if (OneIn(2)) request.priority = Between(-1, 2);
    request.client = Word(1);
    if (OneIn(2)) request.client = "flood";
    client->reader = OneIn(4) ? Reader::kUnsteady : OneIn(6) ? Reader::kStuck : Reader::kQuick;
    clients_.push_back(std::move(client));
  }

  std::string Word(int length) {
    std::string letters;
    while (length-- > 0) letters += static_cast<char>('a' + Between(0, CoreBench::kVocab - 2));
    return letters;
  }

  void Act(Client& client, int step) {
    if (step == client.arrival_step) {
      client.arrival = arrivals_++;
      client.submitted_at = bench_.now;
      const absl::Status refused =
          Admission(options_).Check(client.request, bench_.core.load(), Offers{}, bench_.now);
      if (refused.ok()) {
        bench_.Submit(client.request, client.sink);
      } else {
        client.sink.summary.emplace().status = refused;
        client.refused = true;
        ++refused_;
      }
      client.submitted = true;
    }
    if (step == client.cancel_step && client.submitted) {
      const bool was_over = client.over();
      bench_.core.Cancel(client.request.id);
      bench_.core.CheckInvariants();
      ASSERT_TRUE(was_over || client.sink.summary->status.code() == absl::StatusCode::kCancelled);
    }
    if (client.reader == Reader::kUnsteady) client.sink.has_room = OneIn(2);
    if (client.reader == Reader::kStuck && client.sink.outputs > 2) client.sink.has_room = false;
  }

  /// A step as seen from outside.
  struct Step {
    /// Whether nothing but rows keeps anybody from being computed: there are slots and blocks for
    /// all that wait, and no deadlines.
    bool roomy = true;
    std::vector<Client*> present;
    int prompt_rows = 0;
  };

  Step Before() {
    Step step;
    int slots = 0;
    int blocks = 0;
    for (const auto& client : clients_) {
      if (!client->submitted || client->over()) continue;
      const Request& request = client->request;
      step.present.push_back(client.get());
      slots += request.n;
      blocks += request.n * (2 + LongestSequence(request, options_) / options_.block_tokens);
      step.roomy &= request.deadline == absl::InfiniteFuture();
    }
    step.roomy &= slots <= options_.max_running_sequences && blocks <= options_.kv_blocks;
    return step;
  }

  // Prompts share a step's rows: each client gets at least as many as if all that are present
  // shared, whoever came first. So the shares of one that has a single request, of the highest
  // priority (to which others may have been promoted), come to less than its prompt until that has
  // been computed.
  void NoteShares(const Step& step) {
    std::map<std::string, int> requests;
    int highest = std::numeric_limits<int>::max();
    for (const Client* client : step.present) ++requests[client->request.client];
    for (const auto& client : clients_) highest = std::min(highest, client->request.priority);
    for (Client* client : step.present) {
      if (!step.roomy || client->sink.outputs > 0 || client->over()) continue;
      if (requests[client->request.client] > 1 || requests.size() > kMaxSharingClients ||
          client->request.priority > highest || client->reader != Reader::kQuick) {
        continue;
      }
      const int share = step.prompt_rows / static_cast<int>(requests.size());
      shares_ += share > 0;
      client->due_rows += share;
    }
  }

  void CheckBounds() {
    const Load& waiting = bench_.core.load().waiting.total();
    ASSERT_LE(waiting.requests, options_.max_waiting_requests);
    ASSERT_TRUE(waiting.requests <= 1 || waiting.prompt_tokens <= options_.max_waiting_tokens);
  }

  // Of requests of one priority and client, none is started while an earlier one waits. Those whose
  // readers falter may be passed over, and those whose start deadlines forbid.
  void CheckOrder() {
    if (has_deadlines_) return;
    for (const auto& early : clients_) {
      for (const auto& late : clients_) {
        if (early->arrival >= late->arrival || early->reader != Reader::kQuick ||
            early->request.priority != late->request.priority ||
            early->request.client != late->request.client || !late->started()) {
          continue;
        }
        ASSERT_LE(early->started() ? early->start() : early->end(), late->start())
            << early->request.id << " before " << late->request.id;
      }
    }
  }

  bool AllOver() const {
    return std::ranges::all_of(clients_, [](const auto& client) { return client->over(); });
  }

  bool NobodyCouldGoOn() const {
    return std::ranges::all_of(clients_, [](const auto& client) {
      return !client->submitted || client->over() || !client->sink.has_room;
    });
  }

  // Once the others are done, or at least all at rest, those who slept begin to read again.
  void ReleaseStuckReaders(int step) {
    for (const auto& client : clients_) {
      if (client->arrival_step > step) return;
    }
    for (const auto& client : clients_) {
      if (client->reader == Reader::kStuck) client->reader = Reader::kUnsteady;
    }
  }

  void Check() {
    int preemptions = 0;
    for (const auto& client : clients_) {
      SCOPED_TRACE("request " + std::to_string(client->request.id));
      const RequestSummary& summary = *client->sink.summary;
      if (client->refused) {
        ASSERT_TRUE(DetailsOf(summary.status).has_value());
        continue;
      }
      preemptions += summary.preemptions;
      size_t generated = 0;
      for (int i = 0; i < client->request.n; ++i) {
        const auto& actual = client->sink.continuations[static_cast<size_t>(i)];
        generated += actual.tokens.size();
        CheckContinuation(
            *client, actual,
            ReferenceContinuation(client->request, i, options_, bench_.model, bench_.tokenizer));
      }
      ASSERT_EQ(static_cast<size_t>(summary.generated_tokens), generated);
      const auto refusal = DetailsOf(summary.status);
      ASSERT_TRUE(summary.status.ok() || client->cancel_step >= 0 || refusal.has_value() ||
                  client->request.deadline != absl::InfiniteFuture())
          << summary.status;
      if (refusal.has_value()) {
        ASSERT_EQ(generated, 0u);
        const bool by_deadline =
            refusal->reason == ShedReason::kDeadline || refusal->reason == ShedReason::kOverdue;
        ASSERT_TRUE(!by_deadline || client->request.deadline != absl::InfiniteFuture());
      }
      ASSERT_TRUE(summary.preemptions > 0 || client->due_rows < summary.prompt_tokens)
          << "its prompt was held back by others";
      ASSERT_LT(summary.cached_tokens, summary.prompt_tokens);
      cached_tokens_ += summary.cached_tokens;
      ASSERT_LE(summary.queue_seconds, summary.total_seconds);
      ASSERT_LE(summary.ttft_seconds, summary.total_seconds);
    }
    CheckOrder();
    ASSERT_EQ(preemptions, bench_.observer.preemptions);
    ASSERT_EQ(bench_.observer.finished.size() + static_cast<size_t>(refused_), clients_.size());
    ASSERT_EQ(bench_.core.store().free_blocks(), bench_.core.store().total_blocks()) << "leaked";
  }

  void CheckContinuation(const Client& client, const RecordingSink::Continuation& actual,
                         const RecordingSink::Continuation& expected) {
    if (actual.finish_reason == FinishReason::kCancelled) {
      ASSERT_FALSE(client.sink.summary->status.ok());
      const std::vector<int32_t> tokens = actual.token_ids();
      ASSERT_LE(tokens.size(), expected.tokens.size());
      std::string letters;
      for (size_t i = 0; i < tokens.size(); ++i) {
        ASSERT_EQ(tokens[i], expected.tokens[i].token) << "at " << i;
        letters += bench_.tokenizer.TokenBytes(tokens[i], false);
      }
      ASSERT_EQ(actual.text, letters);
      return;
    }
    ASSERT_EQ(actual.token_ids(), expected.token_ids());
    ASSERT_EQ(actual.text, expected.text);
    ASSERT_EQ(actual.finish_reason, expected.finish_reason);
    ASSERT_EQ(actual.matched_stop, expected.matched_stop);
    for (size_t i = 0; i < actual.tokens.size(); ++i) {
      ASSERT_EQ(actual.tokens[i].logprob, expected.tokens[i].logprob);
    }
  }

  std::mt19937_64 random_;
  EngineOptions options_;
  const bool has_deadlines_ = !OneIn(3);
  std::vector<std::unique_ptr<Client>> clients_;
  CoreBench bench_;
  std::optional<RandomDrafter> drafter_;
  int cached_tokens_ = 0;
  int64_t arrivals_ = 0;
  int refused_ = 0;
  int steps_ = 0;
  int shares_ = 0;
};

unsigned Number(const char* variable, unsigned otherwise) {
  const char* value = std::getenv(variable);
  return value == nullptr ? otherwise : static_cast<unsigned>(std::atol(value));
}

TEST(SimulationTest, EveryContinuationIsTheOneThatItsRequestAloneWouldGet) {
  const bool single = std::getenv("WINNOW_SIMULATION_SEED") != nullptr;
  const unsigned first = Number("WINNOW_SIMULATION_SEED", 0);
  const unsigned seeds = single ? 1 : Number("WINNOW_SIMULATION_SEEDS", 6'000);
  std::signal(SIGABRT, [](int) { std::fprintf(stderr, "seed %u\n", current_seed); });
  int64_t steps = 0;
  int64_t preemptions = 0;
  int64_t cached_tokens = 0;
  int64_t fetched = 0;
  int64_t dropped = 0;
  int64_t shares = 0;
  int64_t drafts_kept = 0;
  int64_t drafts_rejected = 0;
  std::map<ShedReason, int> shed;
  for (unsigned seed = first; seed < first + seeds; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    current_seed = seed;
    Simulation simulation(seed);
    simulation.Run();
    if (HasFailure()) return;
    steps += simulation.steps();
    preemptions += simulation.preemptions();
    cached_tokens += simulation.cached_tokens();
    fetched += simulation.host_traffic().fetched;
    dropped += simulation.host_traffic().dropped;
    shares += simulation.shares();
    drafts_kept += simulation.drafts_kept();
    drafts_rejected += simulation.drafts_rejected();
    for (const ShedReason reason : kShedReasons) shed[reason] += simulation.shed(reason);
  }
  std::printf("%u seeds, %lld steps, %lld preemptions, %lld drafts kept, more than %lld not\n",
              seeds, static_cast<long long>(steps), static_cast<long long>(preemptions),
              static_cast<long long>(drafts_kept), static_cast<long long>(drafts_rejected));
  if (single) return;
  EXPECT_GT(preemptions, seeds) << "the workloads are too easy";
  EXPECT_GT(cached_tokens, seeds);
  EXPECT_GT(fetched, seeds);
  EXPECT_GT(dropped, seeds);
  EXPECT_GT(shares, seeds / 20);
  EXPECT_GT(drafts_kept, seeds);
  EXPECT_GT(drafts_rejected, seeds);
  for (const ShedReason reason : kShedReasons) {
    EXPECT_GT(shed[reason], seeds / 2000) << ShedReasonName(reason);
  }
}

}  // namespace
}  // namespace winnow
