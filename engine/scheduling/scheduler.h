#pragma once

#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/cache/kv_store.h"
#include "engine/request/engine_options.h"
#include "engine/scheduling/forecast.h"
#include "engine/scheduling/running_set.h"
#include "engine/scheduling/waiting_queue.h"
#include "engine/sequence/sequence.h"
#include "engine/sequence/span.h"

namespace winnow {

/// What one step computes.
struct Schedule {
  std::vector<Span> spans;           ///< of decoding sequences first, then pieces of the past
  std::vector<Sequence*> started;    ///< for the first time, whether or not they have a span yet
  std::vector<Sequence*> preempted;  ///< lost their blocks; will be recomputed
  /// The priority of the sequence that was next, but for those passed over, and could not be
  /// started; none if everybody else was.
  std::optional<int> blocked_priority;
  int rows_left = 0;  ///< of max_step_tokens
};

/// Decides what each step computes, and which sequences own KV blocks.
///
/// Sequences wait or run. A running one owns the blocks of all its tokens, but of layers with
/// windows only those that the windows still reach and the next rows need (KvWindows); a waiting
/// one owns none. RunningSet orders those that run and says who gives way, WaitingQueue says who of
/// those that wait is next, KvStore has the blocks.
///   - A step takes the running sequences' decode tokens first, in order, then prompts, which share
///     the rest of its max_step_tokens rows (SharePromptRows). Drafts get rows and blocks that no
///     decode token needs.
///   - The next waiting sequence that finds a place among the prompts that run (PromptPlaces) is
///     started when there are blocks for all its tokens and one more, and deadlines allow it.
///     Running ones of lower priority give way to it. No other overtakes it, unless a deadline
///     keeps it from being started and not the other, not even if both ran, and that at most
///     kMaxPasses times. Where one of a client's finds no place, its later ones wait, too.
///   - A decode that needs a block when none is free takes one from the last running sequence
///     (perhaps itself), which gives up all its blocks and waits again, to be recomputed. So does a
///     prompt whose windows move on, if others share the blocks that it leaves behind.
/// So the first sequence always goes on. Every sequence gets to be the first, because those of the
/// highest priority do as they get older, and others are promoted to it: none starves.
///
/// A sequence that is started begins behind the full blocks of its prefix that are known already
/// (PrefixCache). Prompts are computed densely, whatever the policy of what is generated: only
/// blocks of prompt tokens, and those of dense sequences, can be known.
class Scheduler {
 public:
  /// Sequences that are passed over in one step: if yet another may not start, the queue is
  /// blocked.
  static constexpr size_t kMaxPassed = 4;
  /// How often a sequence is passed over while it is the first to be: then all wait for it.
  static constexpr int kMaxPasses = 32;

  /// REQUIRES: `store` outlives the scheduler.
  Scheduler(const EngineOptions& options, KvStore& store) : options_(options), store_(store) {}

  /// Queues a new sequence. REQUIRES: it outlives its stay here, and its longest length fits the
  /// store.
  void Add(Sequence& sequence);

  /// Forms the next step and assigns its blocks; the forecast says who may be started. The caller
  /// computes it, and reports each span by NoteComputed.
  Schedule Form(const Forecast& forecast, absl::Time now);

  /// Takes note that the keys and values of a span's tokens are stored; drafts do not count yet.
  /// REQUIRES: its sequence is running.
  void NoteComputed(const Span& span);

  /// Lets the sequence's forks go on from it; all its tokens are computed. Those for whose copy of
  /// the last block there is no room wait and will be computed on their own. An error means that
  /// the device failed.
  absl::Status Fork(Sequence& parent);

  /// Takes note that a running sequence got so many tokens (Sequence::Accept).
  void NoteAccepted(Sequence& sequence, int tokens);

  /// Takes a sequence out for good, in whatever state it is.
  void Remove(Sequence& sequence);

  const RunningSet& running() const { return running_; }

  /// Ends the process if a block leaked, or is shared by sequences that could write it. Debug
  /// builds call it in every step.
  void CheckInvariants() const;

 private:
  /// What deadlines say of who may be started in this step.
  struct Gate {
    const Forecast& forecast;
    absl::Time now;
  };

  void MakeRoomForPrompts(Schedule& step);
  void ScheduleDecodes(Schedule& step);
  void ScheduleDecode(Sequence& sequence, int decodes_to_come, Schedule& step);
  void SchedulePrompts(Schedule& step);
  void StartWaiting(const Gate& gate, Schedule& step);
  bool MayStart(const Sequence& sequence, std::span<Sequence* const> passed,
                const Gate& gate) const;
  void Start(Sequence& sequence, Schedule& step);
  void ScheduleSpan(Sequence& sequence, int rows, Schedule& step);
  bool MakeRoomToGoOn(Sequence& sequence, Schedule& step);
  bool MakeRoomToStart(const Sequence& sequence, const Gate& gate, Schedule& step);
  void TakePrefix(Sequence& sequence);
  void Publish(Sequence& sequence);
  void Preempt(Sequence& sequence, Schedule& step);
  void ReleaseBlocks(Sequence& sequence);

  const EngineOptions options_;
  KvStore& store_;
  WaitingQueue waiting_;
  RunningSet running_;
};

}  // namespace winnow
