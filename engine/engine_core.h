#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/active_request.h"
#include "engine/cache/block_memory.h"
#include "engine/cache/kv_store.h"
#include "engine/model/forward_pass.h"
#include "engine/observer.h"
#include "engine/request/engine_options.h"
#include "engine/request/refusal.h"
#include "engine/request/request.h"
#include "engine/request_table.h"
#include "engine/scheduling/engine_load.h"
#include "engine/scheduling/queue_bounds.h"
#include "engine/scheduling/scheduler.h"
#include "engine/scheduling/step_builder.h"
#include "engine/sequence/drafter.h"
#include "engine/sequence/span.h"
#include "engine/text/tokenizer.h"

namespace winnow {

/// The engine without its thread: requests in, one step at a time, output to the requests' sinks.
/// Not thread-safe; has no threads, locks or clock of its own, so that tests can simulate it.
class EngineCore {
 public:
  using Clock = std::function<absl::Time()>;

  /// `memory` is that of the KV blocks which `forward` computes on. REQUIRES: all of them outlive
  /// the core.
  EngineCore(
      const EngineOptions& options, ForwardPass& forward, BlockMemory& memory,
      const Tokenizer& tokenizer, EngineObserver& observer,
      Clock clock = [] { return absl::Now(); });
  /// REQUIRES: no request is left (EndAll).
  ~EngineCore();

  /// Takes a request that its caller handed in at `submitted`. The sink gets OnFinished in every
  /// case, at once with UNAVAILABLE if the device has failed, or with a Refusal if, with what is
  /// still to compute of its prompt, it would not end before its deadline. When the queue is
  /// overfull then, waiting requests end with a Refusal, perhaps this one. REQUIRES: CheckRequest
  /// and Admission::Check approve it and no other request has its id.
  void Submit(Request request, RequestSink* sink, absl::Time submitted);

  /// Ends the request with CANCELLED; its blocks are free on return. Ignores unknown ids.
  void Cancel(uint64_t request_id);

  /// Sets who guesses the tokens to come; null, as at first, for nobody. See Drafter. REQUIRES: the
  /// drafter outlives the core.
  void SetDrafter(Drafter* drafter) { drafter_ = drafter; }

  /// From `limit` on, Step ends all requests with UNAVAILABLE.
  void DrainUntil(absl::Time limit) { drain_limit_ = limit; }

  /// Ends all requests now.
  void EndAll(const absl::Status& status);

  /// Ends what has expired, then computes one step and hands its tokens out; `publish` is called
  /// before these go out, when load() and gauges() are up to date: who has got a token finds the
  /// engine as it is since. False if there was nothing to compute: until the next message or
  /// NextDeadline() another call will do nothing.
  bool Step(const std::function<void()>& publish = [] {});

  /// When Step has to be called even if nothing else happens.
  absl::Time NextDeadline() const;

  int requests() const { return requests_.size(); }
  /// What waits, as of now, and what runs, as of the last step.
  const EngineLoad& load() const { return load_; }
  /// False once the device has failed.
  bool healthy() const { return healthy_; }
  /// Prompt and generated tokens of the step that is computed, or was last. For any thread.
  struct StepTokens {
    int32_t prefill = 0;
    int32_t decode = 0;
  };
  StepTokens step_tokens() const { return step_tokens_.load(std::memory_order_relaxed); }
  /// As of the last step; its observer does not get them.
  const EngineGauges& gauges() const { return gauges_; }
  const KvStore& store() const { return store_; }
  /// See Scheduler::CheckInvariants.
  void CheckInvariants() const { scheduler_.CheckInvariants(); }

 private:
  /// What a step computed after the rows of one span that wanted it.
  struct NextTokens {
    std::span<const int32_t> choices;          ///< of the sequence, then one of each of its forks
    std::span<TokenDescription> descriptions;  ///< [choices], or empty: no request wants any

    NextTokens Sub(size_t begin, size_t count) const {
      return {choices.subspan(begin, count),
              descriptions.empty() ? descriptions : descriptions.subspan(begin, count)};
    }
  };

  bool ComputeStep();
  int KnownTokens(const Request& request) const;
  void EndLate();
  bool Overdue(const ActiveRequest& waiting, std::map<int, Load>& running, absl::Time now) const;
  void ShedOverflow(const Request& newcomer);
  void Draft();
  void NoteScheduled(const Schedule& schedule, absl::Time now);
  absl::Status Compute();
  absl::Status HandOut(std::span<const Span> spans);
  absl::Status HandOut(const Span& span, const NextTokens& next);
  absl::Status Accept(ActiveRequest& active, Sequence& sequence, const NextTokens& next);
  void End(ActiveRequest& active, const absl::Status& status);
  void Shed(ActiveRequest& active, ShedReason reason, const std::string& message);
  void Fail(const absl::Status& status);
  void HandDeliveriesOver();
  void NoteLoad();

  const EngineOptions options_;
  ForwardPass& forward_;
  const Tokenizer& tokenizer_;
  EngineObserver& observer_;
  const Clock clock_;

  Drafter* drafter_ = nullptr;
  KvStore store_;
  Scheduler scheduler_;
  std::optional<int> blocked_priority_;  ///< Schedule's of the last step
  const QueueBounds bounds_;
  EngineLoad load_;
  StepBuilder step_builder_;
  std::vector<int32_t> chosen_;                 ///< [choices of the step]
  std::vector<TokenDescription> descriptions_;  ///< [choices of the step], if one is wanted
  std::vector<ProbedMass> probed_;              ///< [probes of the step]

  RequestTable requests_;
  /// Ended during this step, whose schedule may still point to their sequences.
  std::vector<std::unique_ptr<ActiveRequest>> ended_;
  bool in_step_ = false;
  std::vector<std::function<void()>> deliveries_;  ///< outputs and ends of this step, in order
  int64_t arrivals_ = 0;
  std::mt19937_64 seeds_;  ///< for requests that bring none
  absl::Time drain_limit_ = absl::InfiniteFuture();
  bool healthy_ = true;
  EngineGauges gauges_;
  std::atomic<StepTokens> step_tokens_{};
};

}  // namespace winnow
