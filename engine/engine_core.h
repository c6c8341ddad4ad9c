#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/cache/block_pool.h"
#include "engine/model/forward_pass.h"
#include "engine/observer.h"
#include "engine/request/engine_options.h"
#include "engine/request/refusal.h"
#include "engine/request/request.h"
#include "engine/scheduling/engine_load.h"
#include "engine/scheduling/queue_bounds.h"
#include "engine/scheduling/scheduler.h"
#include "engine/scheduling/step_builder.h"
#include "engine/sequence/sampling.h"
#include "engine/text/tokenizer.h"

namespace winnow {

/// The engine without its thread: requests in, one step at a time, output to the requests' sinks.
/// Not thread-safe; has no threads, locks or clock of its own, so that tests can simulate it.
class EngineCore {
 public:
  using Clock = std::function<absl::Time()>;

  /// REQUIRES: `forward`, `tokenizer` and `observer` outlive the core.
  EngineCore(
      const EngineOptions& options, ForwardPass& forward, const Tokenizer& tokenizer,
      EngineObserver& observer, Clock clock = [] { return absl::Now(); });
  /// REQUIRES: no request is left (EndAll).
  ~EngineCore();

  /// Takes a request that its caller handed in at `submitted`. The sink gets OnFinished in every
  /// case, at once with UNAVAILABLE if the device has failed. When the queue is overfull then,
  /// waiting requests end with a Refusal, perhaps this one. REQUIRES: CheckRequest and
  /// Admission::Check approve it and no other request has its id.
  void Submit(Request request, RequestSink* sink, absl::Time submitted);

  /// Ends the request with CANCELLED; its blocks are free on return. Ignores unknown ids.
  void Cancel(uint64_t request_id);

  /// From `limit` on, Step ends all requests with UNAVAILABLE.
  void DrainUntil(absl::Time limit) { drain_limit_ = limit; }

  /// Ends all requests now.
  void EndAll(const absl::Status& status);

  /// Ends what has expired, then computes one step and hands its tokens out. False if there was
  /// nothing to compute: until the next message or NextDeadline() another call will do nothing.
  bool Step();

  /// When Step has to be called even if nothing else happens.
  absl::Time NextDeadline() const;

  int requests() const { return static_cast<int>(requests_.size()); }
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
  /// As of the last step.
  const EngineGauges& gauges() const { return gauges_; }
  const BlockPool& pool() const { return pool_; }
  /// See Scheduler::CheckInvariants.
  void CheckInvariants() const { scheduler_.CheckInvariants(); }

 private:
  struct ActiveRequest;

  /// What a step computed after one chunk.
  struct NextTokens {
    std::span<const int32_t> choices;  ///< of each sequence that goes on from the chunk
    std::span<const float> logits;     ///< [vocab], or empty: the request does not want them
  };
  using Requests = std::map<uint64_t, std::unique_ptr<ActiveRequest>>;

  void EndExpired();
  void EndOverdue();
  void ShedOverflow(const Request& newcomer);
  void PauseSlowReaders();
  void NoteScheduled(const Schedule& schedule, absl::Time now);
  void NoteAttention(const Schedule& schedule, StepStats& stats);
  absl::Status HandOut(const ScheduledChunk& chunk, const NextTokens& next);
  absl::Status Fork(ActiveRequest& active);
  void Choose(const Schedule& schedule);
  absl::Status Take(ActiveRequest& active, Sequence& sequence, int32_t choice,
                    std::span<const float> logits);
  void End(Requests::iterator entry, const absl::Status& status);
  void Shed(Requests::iterator entry, ShedReason reason, const std::string& message);
  void Fail(const absl::Status& status);
  void NoteLoad();

  const EngineOptions options_;
  ForwardPass& forward_;
  const Tokenizer& tokenizer_;
  EngineObserver& observer_;
  const Clock clock_;

  BlockPool pool_;
  Scheduler scheduler_;
  const QueueBounds bounds_;
  EngineLoad load_;
  StepBuilder step_builder_;
  std::vector<TokenChoice> choices_;  ///< of the step
  std::vector<int32_t> chosen_;       ///< [choices]
  std::vector<float> logits_;         ///< [logit rows of the step, vocab] if a request wants them
  std::vector<float> recalls_;        ///< [probes of the step]

  Requests requests_;
  /// Ended during this step, whose schedule may still point to their sequences.
  std::vector<std::unique_ptr<ActiveRequest>> ended_;
  int64_t arrivals_ = 0;
  std::mt19937_64 seeds_;  ///< for requests that bring none
  absl::Time drain_limit_ = absl::InfiniteFuture();
  bool healthy_ = true;
  EngineGauges gauges_;
  std::atomic<StepTokens> step_tokens_{};
};

}  // namespace winnow
