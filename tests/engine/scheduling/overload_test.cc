// The engine beyond its capacity, in virtual time: a step takes what a model of costs says. Goodput
// is the rate of tokens of requests that end well within their deadlines.

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "engine/engine_core.h"
#include "engine/mailbox.h"
#include "engine/request/refusal.h"
#include "tests/engine/fakes.h"

namespace winnow {
namespace {

/// Seconds of a step.
struct CostModel {
  double base;
  double prefill_row;
  double decode_row;
};
constexpr CostModel kTwoCores = {0.015, 0.009, 0.011};
constexpr CostModel kLargeGpu = {0.010, 0.0001, 0.00005};

struct Traffic {
  std::string client;
  int priority = 0;
  double requests_per_second = 0;
  double deadline_seconds = 20;
  bool ends_by_itself = false;  ///< asks for far more tokens than it gets
};

struct Outcome {
  int offered = 0;
  int completed = 0;
  double goodput = 0;  ///< tokens/s
  int refused = 0;     ///< at once, or when the engine saw how much of the prompt it knows
  int dropped = 0;     ///< from the queue
  int expired = 0;
};

class Overload {
 public:
  explicit Overload(const CostModel& costs) : costs_(costs) {
    options_.block_tokens = 16;
    options_.kv_blocks = 2048;
    options_.max_context = 2048;
    model_ = std::make_unique<HistoryModel>(options_.kv_blocks, options_.block_tokens, kVocab);
    model_->before_forward = [this](const StepBatch& batch) {
      const int decode = static_cast<int>(batch.logit_rows.size());
      now_ += absl::Seconds(costs_.base + costs_.decode_row * decode +
                            costs_.prefill_row * (batch.rows() - decode));
      return absl::OkStatus();
    };
  }

  /// Offers the traffics for so long; one outcome for each, of what comes after a lead-in.
  std::vector<Outcome> Run(const std::vector<Traffic>& traffics, double seconds,
                           double lead_in = 0) {
    EngineCore core(options_, *model_, *model_, tokenizer_, observer_, [this] { return now_; });
    Mailbox mailbox(options_);
    const absl::Time begin = now_ + absl::Seconds(lead_in);
    const absl::Time end = begin + absl::Seconds(seconds);
    std::vector<Outcome> outcomes(traffics.size());
    std::vector<absl::Time> next;
    for (const Traffic& traffic : traffics) next.push_back(now_ + Gap(traffic));
    std::vector<Call> calls;
    calls.reserve(1'000'000);
    while (now_ < end) {
      for (size_t i = 0; i < traffics.size(); ++i) {
        for (; next[i] <= now_; next[i] += Gap(traffics[i])) {
          calls.push_back({i, next[i] >= begin, std::make_unique<RecordingSink>()});
          outcomes[i].offered += calls.back().counts;
          const Request request = MakeRequest(traffics[i], calls.size(), next[i]);
          Request outline = request;
          outline.prompt_tokens.clear();
          if (!mailbox.CheckOutline(outline, next[i]).ok() ||
              !mailbox.Submit(request, calls.back().sink.get(), next[i]).ok()) {
            outcomes[i].refused += calls.back().counts;
          }
        }
      }
      for (Submission& submission : mailbox.Collect(absl::InfinitePast()).submissions) {
        core.Submit(std::move(submission.request), submission.sink, submission.submitted);
      }
      const bool worked = core.Step();
      mailbox.Publish(core.load());
      if (!worked) now_ = std::max(now_, *std::ranges::min_element(next));
    }
    for (const Call& call : calls) {
      if (!call.counts || !call.sink->summary.has_value()) continue;
      const RequestSummary& summary = *call.sink->summary;
      Outcome& outcome = outcomes[call.traffic];
      if (summary.status.ok()) {
        ++outcome.completed;
        outcome.goodput += summary.generated_tokens / seconds;
      } else if (const auto details = DetailsOf(summary.status)) {
        ++(details->reason == ShedReason::kDeadline ? outcome.refused : outcome.dropped);
      } else {
        ++outcome.expired;
      }
    }
    core.EndAll(absl::CancelledError("the test is over"));
    return outcomes;
  }

 private:
  static constexpr int kVocab = 16;
  struct Call {
    size_t traffic;
    bool counts;
    std::unique_ptr<RecordingSink> sink;
  };

  absl::Duration Gap(const Traffic& traffic) {
    return absl::Seconds(
        std::exponential_distribution<double>(traffic.requests_per_second)(random_));
  }
  int Between(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random_); }

  Request MakeRequest(const Traffic& traffic, uint64_t id, absl::Time arrival) {
    Request request;
    request.id = id;
    for (int i = Between(20, 180); i > 0; --i) {
      request.prompt_tokens.push_back(Between(0, kVocab - 2));
    }
    request.sampling.temperature = 0;
    request.max_tokens = traffic.ends_by_itself ? 1000 : Between(10, 90);
    request.ignore_eos = !traffic.ends_by_itself;
    request.client = traffic.client;
    request.priority = traffic.priority;
    request.deadline = arrival + absl::Seconds(traffic.deadline_seconds);
    return request;
  }

  const CostModel costs_;
  EngineOptions options_;
  absl::Time now_ = absl::UnixEpoch();
  std::mt19937_64 random_{1};
  LetterTokenizer tokenizer_{kVocab};
  std::unique_ptr<HistoryModel> model_;
  RecordingObserver observer_;
};

/// Requests a second that one machine can just serve.
double Capacity(const CostModel& costs) {
  const double decode_step = costs.base + 64 * costs.decode_row;
  return 1 / (100 * costs.prefill_row + 50 * decode_step / 64);
}

Outcome RunAt(const CostModel& costs, double load, Traffic traffic, double lead_in) {
  traffic.requests_per_second = load * Capacity(costs);
  return Overload(costs).Run({traffic}, 120 + 20 * lead_in, lead_in).front();
}

void ExpectGoodputHolds(const CostModel& costs, const Traffic& traffic, double most_late = 0.05,
                        double lead_in = 0) {
  double peak = 0;
  for (const double load : {0.8, 1.0, 1.2}) {
    peak = std::max(peak, RunAt(costs, load, traffic, lead_in).goodput);
  }
  for (const double load : {2.0, 10.0}) {
    const Outcome outcome = RunAt(costs, load, traffic, lead_in);
    EXPECT_GT(outcome.goodput, 0.9 * peak) << load << " times the capacity, peak " << peak;
    // Who is let in nearly always gets an answer.
    EXPECT_LT(outcome.dropped + outcome.expired, most_late * outcome.completed) << load;
    EXPECT_GT(outcome.refused, outcome.offered / 4);
  }
}

TEST(OverloadTest, GoodputHoldsAtTenTimesTheCapacityOfTwoCores) {
  ExpectGoodputHolds(kTwoCores, {.client = "a"});
}

TEST(OverloadTest, GoodputHoldsAtTenTimesTheCapacityOfALargeGpu) {
  ExpectGoodputHolds(kLargeGpu, {.client = "a", .deadline_seconds = 3});
}

TEST(OverloadTest, GoodputHoldsWhenAnswersAreMuchShorterThanTheirLimit) {
  // While it is not known how long they are, nobody is refused for what they may be.
  ExpectGoodputHolds(kTwoCores, {.client = "a", .ends_by_itself = true}, 0.1, /*lead_in=*/30);
}

TEST(OverloadTest, AClientThatFloodsDoesNotStarveOthers) {
  const double capacity = Capacity(kTwoCores);
  const std::vector<Outcome> outcomes =
      Overload(kTwoCores).Run({{.client = "flood", .requests_per_second = 10 * capacity},
                               {.client = "modest", .requests_per_second = 0.3 * capacity}},
                              300);
  EXPECT_GT(outcomes[1].completed, 0.5 * outcomes[1].offered);
  EXPECT_LT(outcomes[0].completed, 0.1 * outcomes[0].offered);
  EXPECT_GT(outcomes[0].completed, outcomes[1].completed);
}

TEST(OverloadTest, AFloodOfLowPriorityDoesNotHoldUpHigherOnes) {
  const double capacity = Capacity(kTwoCores);
  const std::vector<Outcome> outcomes = Overload(kTwoCores).Run(
      {{.client = "a",
        .priority = 5,
        .requests_per_second = 10 * capacity,
        .deadline_seconds = 1e6},
       {.client = "a", .priority = 0, .requests_per_second = 0.5 * capacity}},
      300);
  EXPECT_GT(outcomes[1].completed, 0.75 * outcomes[1].offered);
  EXPECT_GT(outcomes[0].completed, 0);
}

}  // namespace
}  // namespace winnow
