#pragma once

#include <functional>
#include <optional>
#include <set>
#include <unordered_set>
#include <vector>

#include "engine/cache/block_memory.h"
#include "engine/cache/block_pool.h"
#include "engine/cache/prefix_cache.h"
#include "engine/request/engine_options.h"
#include "engine/scheduling/waiting_queue.h"
#include "engine/sequence/sequence.h"

namespace winnow {

/// What a step computes of one sequence: tokens [begin, begin + count).
struct ScheduledChunk {
  Sequence* sequence = nullptr;
  int begin = 0;
  int count = 0;
  bool decode = false;        ///< the token chosen last, not a piece of the past
  bool wants_logits = false;  ///< reaches the sequence's end: the next token can be chosen
};

struct Schedule {
  std::vector<ScheduledChunk> chunks;  ///< decode tokens first, then prefill chunks
  std::vector<Sequence*> preempted;    ///< lost their blocks; will be recomputed
};

/// Decides what each step computes, and which sequences own KV blocks.
///
/// Sequences wait or run. A running one owns the blocks of all its tokens, a waiting one owns none.
/// Running ones are ordered by priority, then by age; WaitingQueue says who of those that wait is
/// next.
///   - A step takes the running sequences' decode tokens first, then prompts, each in order, until
///     it has max_step_tokens rows.
///   - The next waiting sequence is started when the step has a row left for it, and there are
///     blocks for all its tokens and one more, and deadlines allow it; no other overtakes it.
///     Running ones of lower priority give way to it.
///   - A decode that needs a block when none is free takes one from the last running sequence
///     (perhaps itself), which gives up all its blocks and waits again, to be recomputed.
/// So the first sequence always goes on. Every sequence gets to be the first, because those of the
/// highest priority do as they get older, and others are promoted to it: none starves.
///
/// An admitted sequence begins behind the full blocks of its prefix that are known already
/// (PrefixCache). Prompts are computed densely, whatever the policy of what is generated: only
/// blocks of prompt tokens, and those of dense sequences, can be known.
///
/// A paused sequence (slow reader) that has nothing to do but to decode rests. It keeps its blocks
/// while nobody needs them, but is the first to lose them, and while it waits others do overtake
/// it: it stops only itself. One that is computing its past goes on until it has chosen a token, so
/// that readers who falter now and then cannot keep each other from ever getting on.
class Scheduler {
 public:
  /// REQUIRES: `pool` outlives the scheduler.
  Scheduler(const EngineOptions& options, BlockPool& pool);

  /// Queues a new sequence. REQUIRES: it outlives its stay here, and its longest length fits the
  /// pool.
  void Add(Sequence& sequence);

  /// Whether a sequence may be started now; what is known of its prompt counts as computed. With
  /// `alone`, running ones of lower priority are taken to have given way.
  using MayStart = std::function<bool(const Sequence& sequence, bool alone)>;

  /// Forms the next step and assigns its blocks. The caller computes it, and reports each chunk by
  /// NoteComputed.
  Schedule Form(const MayStart& may_start);

  /// Takes note that a chunk's keys and values are stored. REQUIRES: its sequence is running.
  void NoteComputed(const ScheduledChunk& chunk);

  /// Lets `child` go on from `parent`, whose tokens are all computed: they share the full blocks,
  /// the partly filled last one has to be copied as returned. Without a free block for the copy,
  /// `child` waits and will be computed on its own. REQUIRES: `child` is new, has the parent's
  /// tokens.
  std::optional<BlockCopy> Fork(Sequence& parent, Sequence& child);

  /// Takes a sequence out for good, in whatever state it is.
  void Remove(Sequence& sequence);

  const std::set<Sequence*, ComesBefore>& running() const { return running_; }
  /// The priority of the sequence that was next in the last step and could not be started, if any.
  std::optional<int> stands() const { return stands_; }

  /// Ends the process if a block leaked, or is shared by sequences that could write it. Debug
  /// builds call it in every step.
  void CheckInvariants() const;

 private:
  void SchedulePrompts(int priority, Schedule& schedule);
  void SchedulePrompt(Sequence& sequence, Schedule& schedule);
  void StartWaiting(const MayStart& may_start, Schedule& schedule);
  void ScheduleChunk(Sequence& sequence, Schedule& schedule);
  bool MakeRoomToDecode(Sequence& sequence, Schedule& schedule);
  void TakePrefix(Sequence& sequence);
  bool MakeRoomToStart(const Sequence& sequence, const MayStart& may_start, Schedule& schedule);
  void Preempt(Sequence& sequence, Schedule& schedule);
  void ReleaseBlocks(Sequence& sequence);
  Sequence* LastToGiveWay(const Sequence& to) const;
  int SlotsTaken() const;

  const EngineOptions options_;
  BlockPool& pool_;
  PrefixCache prefix_cache_;
  WaitingQueue waiting_;
  std::set<Sequence*, ComesBefore> running_;
  int rows_left_ = 0;                                ///< of the step being formed
  std::unordered_set<Sequence*> prompts_scheduled_;  ///< in this step, of running sequences
  std::optional<int> stands_;
};

}  // namespace winnow
