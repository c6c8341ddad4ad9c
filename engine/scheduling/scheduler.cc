#include "engine/scheduling/scheduler.h"

#include <algorithm>
#include <limits>
#include <unordered_map>
#include <utility>

#include "engine/base/check.h"

namespace winnow {

using State = Sequence::State;

namespace {

bool Resting(const Sequence& sequence) { return sequence.paused() && sequence.decoding(); }

// Whether a running sequence makes room for one that waits. Promotion protects, but takes from
// nobody: else a promoted sequence could take from an older one that was started before it.
bool GivesWay(const Sequence& running, const Sequence& waiting) {
  return Resting(running) || running.priority() > waiting.request().priority;
}

}  // namespace

Scheduler::Scheduler(const EngineOptions& options, BlockPool& pool)
    : options_(options), pool_(pool), prefix_cache_(pool) {}

void Scheduler::Add(Sequence& sequence) {
  WINNOW_CHECK(sequence.state() == State::kNew);
  sequence.set_state(State::kWaiting);
  waiting_.Add(sequence);
}

Schedule Scheduler::Form(const MayStart& may_start) {
  Schedule schedule;
  rows_left_ = options_.max_step_tokens;

  // Making room may preempt any later sequence: look for the next one only afterwards.
  for (auto it = running_.begin(); it != running_.end() && rows_left_ > 0;) {
    Sequence& sequence = **it;
    if (!sequence.paused() && sequence.decoding() && MakeRoomToDecode(sequence, schedule)) {
      ScheduleChunk(sequence, schedule);
    }
    it = running_.upper_bound(&sequence);
  }

  StartWaiting(may_start, schedule);
  SchedulePrompts(std::numeric_limits<int>::max(), schedule);
  return schedule;
}

// Schedules running prompts of this and higher priorities.
void Scheduler::SchedulePrompts(int priority, Schedule& schedule) {
  for (Sequence* sequence : running_) {
    if (rows_left_ == 0 || sequence->priority() > priority) break;
    if (!sequence->decoding() && !prompts_scheduled_.contains(sequence)) {
      SchedulePrompt(*sequence, schedule);
    }
  }
}

void Scheduler::SchedulePrompt(Sequence& sequence, Schedule& schedule) {
  prompts_scheduled_.insert(&sequence);
  ScheduleChunk(sequence, schedule);
}

void Scheduler::StartWaiting(const MayStart& may_start, Schedule& schedule) {
  stands_.reset();
  prompts_scheduled_.clear();
  while (Sequence* next = waiting_.Next()) {
    Sequence& sequence = *next;
    SchedulePrompts(sequence.priority(), schedule);
    if (rows_left_ == 0) break;
    // Who has just given way does not come back within the step.
    const bool gave_way = std::ranges::find(schedule.preempted, next) != schedule.preempted.end();
    TakePrefix(sequence);
    if (gave_way || !MakeRoomToStart(sequence, may_start, schedule)) {
      ReleaseBlocks(sequence);
      stands_ = sequence.priority();
      break;
    }
    waiting_.NoteTurn(sequence);
    waiting_.Remove(sequence);
    running_.insert(&sequence);
    if (!sequence.started()) {
      waiting_.Serve(sequence.request().client, kPromptTokenService * sequence.pending());
    }
    sequence.set_started();
    sequence.set_state(State::kRunning);
    sequence.set_admitted_length(sequence.length());
    while (std::ssize(sequence.blocks()) < pool_.BlocksFor(sequence.length())) {
      sequence.mutable_blocks().push_back(pool_.Allocate());
    }
    SchedulePrompt(sequence, schedule);
  }
}

// Gives a waiting sequence the blocks that are known already, which then stay while room is made
// for the others.
void Scheduler::TakePrefix(Sequence& sequence) {
  // At least one token is computed, for the logits.
  const int reusable = std::min(sequence.cacheable(), sequence.length() - 1);
  PrefixPosition position;
  sequence.mutable_blocks() =
      prefix_cache_.Match(sequence.tokens().first(static_cast<size_t>(reusable)),
                          sequence.request().cache_salt, &position);
  for (const int32_t block : sequence.blocks()) pool_.Share(block);
  sequence.set_prefix_position(position);
  sequence.set_computed(position.blocks * pool_.block_tokens());
}

void Scheduler::NoteComputed(const ScheduledChunk& chunk) {
  Sequence& sequence = *chunk.sequence;
  WINNOW_CHECK(sequence.state() == State::kRunning);
  sequence.set_computed(chunk.begin + chunk.count);
  PrefixPosition position = sequence.prefix_position();
  const int full = std::min(sequence.computed(), sequence.cacheable()) / pool_.block_tokens();
  while (position.blocks < full) {
    const auto index = static_cast<size_t>(position.blocks);
    const auto size = static_cast<size_t>(pool_.block_tokens());
    prefix_cache_.Add(sequence.tokens().subspan(index * size, size), sequence.request().cache_salt,
                      sequence.blocks()[index], &position);
  }
  sequence.set_prefix_position(position);
}

void Scheduler::ScheduleChunk(Sequence& sequence, Schedule& schedule) {
  const int count = std::min(sequence.pending(), rows_left_);
  rows_left_ -= count;
  schedule.chunks.push_back({.sequence = &sequence,
                             .begin = sequence.computed(),
                             .count = count,
                             .decode = sequence.decoding(),
                             .wants_logits = count == sequence.pending()});
  if (sequence.decoding()) waiting_.Serve(sequence.request().client, kDecodeTokenService);
}

// Gives a decoding sequence the block that its next token needs, if it needs one. False if it was
// itself the one to give way.
bool Scheduler::MakeRoomToDecode(Sequence& sequence, Schedule& schedule) {
  if (pool_.BlocksFor(sequence.length()) == static_cast<int>(sequence.blocks().size())) return true;
  while (pool_.free_blocks() == 0) {
    const auto resting = std::find_if(running_.rbegin(), running_.rend(),
                                      [](const Sequence* s) { return Resting(*s); });
    Sequence* victim = resting != running_.rend() ? *resting : *running_.rbegin();
    Preempt(*victim, schedule);
    if (victim == &sequence) return false;
  }
  sequence.mutable_blocks().push_back(pool_.Allocate());
  return true;
}

// Whether a waiting sequence can run now, with its forks; preempts others if that helps.
bool Scheduler::MakeRoomToStart(const Sequence& sequence, const MayStart& may_start,
                                Schedule& schedule) {
  if (!may_start(sequence, /*alone=*/true)) return false;
  const int slots = 1 + sequence.forks();
  // One more block than its tokens take, for each continuation, so that it is not preempted at
  // once.
  const int blocks = std::min(pool_.BlocksFor(sequence.length()) + slots, pool_.total_blocks()) -
                     static_cast<int>(sequence.blocks().size());
  int blocks_missing = blocks - pool_.free_blocks();
  int slots_missing = SlotsTaken() + slots - options_.max_running_sequences;
  std::unordered_map<int32_t, int> owners;  // of blocks, among those that give way
  for (const Sequence* other : running_) {
    if (!GivesWay(*other, sequence)) continue;
    slots_missing -= 1 + other->forks();
    for (const int32_t block : other->blocks()) {
      if (++owners[block] == pool_.owners(block)) --blocks_missing;
    }
  }
  if (blocks_missing > 0 || slots_missing > 0) return false;
  while (pool_.free_blocks() < blocks || SlotsTaken() + slots > options_.max_running_sequences ||
         !may_start(sequence, /*alone=*/false)) {
    Preempt(*LastToGiveWay(sequence), schedule);
  }
  return true;
}

// Resting sequences first, then those of the lowest priority, youngest first.
Sequence* Scheduler::LastToGiveWay(const Sequence& to) const {
  const auto last = [this](auto condition) {
    const auto it = std::find_if(running_.rbegin(), running_.rend(), condition);
    return it == running_.rend() ? nullptr : *it;
  };
  Sequence* resting = last([](const Sequence* s) { return Resting(*s); });
  return resting != nullptr ? resting : last([&](const Sequence* s) { return GivesWay(*s, to); });
}

void Scheduler::Preempt(Sequence& sequence, Schedule& schedule) {
  ReleaseBlocks(sequence);
  std::erase_if(schedule.chunks, [&](const ScheduledChunk& chunk) {
    if (chunk.sequence != &sequence) return false;
    rows_left_ += chunk.count;
    return true;
  });
  running_.erase(&sequence);
  waiting_.Add(sequence);
  sequence.set_state(State::kWaiting);
  schedule.preempted.push_back(&sequence);
}

std::optional<BlockCopy> Scheduler::Fork(Sequence& parent, Sequence& child) {
  WINNOW_CHECK(parent.state() == State::kRunning && parent.pending() == 0);
  WINNOW_CHECK(child.state() == State::kNew && child.length() == parent.length());
  parent.set_forks(parent.forks() - 1);
  child.set_started();
  child.Promote(parent.priority());

  const int last_tokens = parent.length() % pool_.block_tokens();
  if (last_tokens > 0 && pool_.free_blocks() == 0) {
    Add(child);
    return std::nullopt;
  }
  child.set_state(State::kRunning);
  running_.insert(&child);
  child.set_computed(parent.computed());
  child.set_prefix_position(parent.prefix_position());
  child.set_admitted_length(parent.length());
  child.mutable_blocks() = parent.blocks();
  std::optional<BlockCopy> copy;
  if (last_tokens > 0) {
    copy = BlockCopy{parent.blocks().back(), pool_.Allocate(), last_tokens};
    child.mutable_blocks().back() = copy->to;
  }
  const int shared = parent.length() / pool_.block_tokens();
  for (int i = 0; i < shared; ++i) pool_.Share(child.blocks()[static_cast<size_t>(i)]);
  return copy;
}

void Scheduler::Remove(Sequence& sequence) {
  ReleaseBlocks(sequence);
  if (sequence.state() == State::kWaiting) waiting_.Remove(sequence);
  running_.erase(&sequence);
  sequence.set_state(State::kFinished);
}

void Scheduler::ReleaseBlocks(Sequence& sequence) {
  // The last ones first, so that of a prefix that is kept the end is overwritten before the start.
  const std::vector<int32_t> blocks = std::exchange(sequence.mutable_blocks(), {});
  std::for_each(blocks.rbegin(), blocks.rend(), [this](int32_t block) { pool_.Release(block); });
  sequence.set_computed(0);
  sequence.set_prefix_position({});
}

int Scheduler::SlotsTaken() const {
  int slots = 0;
  for (const Sequence* sequence : running_) slots += 1 + sequence->forks();
  return slots;
}

void Scheduler::CheckInvariants() const {
  std::vector<int> owners(static_cast<size_t>(pool_.total_blocks()), 0);
  for (const Sequence* sequence : running_) {
    WINNOW_CHECK(sequence->state() == State::kRunning);
    WINNOW_CHECK(!sequence->decoding() || sequence->pending() == 1);
    const int blocks = static_cast<int>(sequence->blocks().size());
    // The block for the token chosen last is assigned only when that is computed.
    WINNOW_CHECK(blocks == pool_.BlocksFor(sequence->length()) ||
                 (sequence->decoding() && blocks == pool_.BlocksFor(sequence->computed())));
    for (int i = 0; i < blocks; ++i) {
      const int32_t block = sequence->blocks()[static_cast<size_t>(i)];
      ++owners[static_cast<size_t>(block)];
      const bool full = (i + 1) * pool_.block_tokens() <= sequence->computed();
      WINNOW_CHECK(full || pool_.owners(block) == 1);
    }
  }
  for (int32_t block = 0; block < pool_.total_blocks(); ++block) {
    WINNOW_CHECK(owners[static_cast<size_t>(block)] == pool_.owners(block));
  }
  waiting_.ForEach([](const Sequence& sequence) {
    WINNOW_CHECK(sequence.state() == State::kWaiting);
    WINNOW_CHECK(sequence.blocks().empty() && sequence.computed() == 0);
  });
  WINNOW_CHECK(SlotsTaken() <= options_.max_running_sequences);
}

}  // namespace winnow
