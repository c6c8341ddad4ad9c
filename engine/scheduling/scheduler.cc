#include "engine/scheduling/scheduler.h"

#include <algorithm>
#include <map>
#include <set>
#include <string>

#include "engine/base/check.h"
#include "engine/scheduling/prompt_shares.h"

namespace winnow {

using State = Sequence::State;

void Scheduler::Add(Sequence& sequence) {
  WINNOW_CHECK(sequence.state() == State::kNew);
  sequence.set_state(State::kWaiting);
  waiting_.Add(sequence);
}

Schedule Scheduler::Form(const Forecast& forecast, absl::Time now) {
  Schedule step;
  step.rows_left = options_.max_step_tokens;
  MakeRoomForPrompts(step);
  ScheduleDecodes(step);
  StartWaiting({forecast, now}, step);
  SchedulePrompts(step);
  return step;
}

void Scheduler::MakeRoomForPrompts(Schedule& step) {
  for (auto it = running_.begin(); it != running_.end();) {
    Sequence& sequence = **it;
    if (!sequence.decoding()) MakeRoomToGoOn(sequence, step);
    it = running_.After(sequence);
  }
}

void Scheduler::ScheduleDecodes(Schedule& step) {
  const auto decodes = [](const Sequence* s) { return !s->paused() && s->decoding(); };
  auto to_come = static_cast<int>(std::ranges::count_if(running_, decodes));
  // Making room may preempt any later sequence: look for the next one only afterwards.
  for (auto it = running_.begin(); it != running_.end() && step.rows_left > 0;) {
    Sequence& sequence = **it;
    if (decodes(&sequence) && MakeRoomToGoOn(sequence, step)) {
      ScheduleDecode(sequence, --to_come, step);
    }
    it = running_.After(sequence);
  }
}

// The token chosen last, and drafts as far as the decodes to come leave rows and blocks.
void Scheduler::ScheduleDecode(Sequence& sequence, int decodes_to_come, Schedule& step) {
  int drafts = static_cast<int>(sequence.drafts().size());
  drafts = std::clamp(step.rows_left - sequence.pending() - decodes_to_come, 0, drafts);
  const int blocks = std::max(0, store_.free_blocks() - decodes_to_come * store_.groups());
  const auto missing = [&] {
    return store_.Missing(sequence.kv(), sequence.computed(), sequence.length() + drafts);
  };
  while (drafts > 0 && missing() > blocks) --drafts;
  store_.Extend(sequence.mutable_kv(), sequence.computed(), sequence.length() + drafts);
  ScheduleSpan(sequence, sequence.pending() + drafts, step);
  waiting_.Serve(sequence.request().client, kDecodeTokenService);
}

void Scheduler::StartWaiting(const Gate& gate, Schedule& step) {
  PromptPlaces places(running_, step.rows_left);
  std::set<std::string> no_place;  // clients
  std::vector<Sequence*> passed;   // whom a deadline forbids to start
  const auto may = [&](const Sequence& sequence) {
    return !no_place.contains(sequence.request().client) &&
           std::ranges::find(passed, &sequence) == passed.end() &&
           places.HasPlace(sequence, /*pending=*/1);
  };
  while (Sequence* next = waiting_.Next(may)) {
    // Who has just given way does not come back within the step.
    const bool gave_way = std::ranges::find(step.preempted, next) != step.preempted.end();
    TakePrefix(*next);
    if (!places.HasPlace(*next, next->pending())) {
      ReleaseBlocks(*next);
      no_place.insert(next->request().client);
      continue;
    }
    const bool in_time = MayStart(*next, passed, gate);
    if (gave_way || !in_time || !MakeRoomToStart(*next, gate, step)) {
      ReleaseBlocks(*next);
      if (!in_time && passed.size() < kMaxPassed && next->passes() < kMaxPasses) {
        passed.push_back(next);
        continue;
      }
      step.blocked_priority = next->priority();
      break;
    }
    if (!passed.empty()) passed.front()->NotePass();
    Start(*next, step);
    places = PromptPlaces(running_, step.rows_left);
  }
}

// Running prompts, by priority.
void Scheduler::SchedulePrompts(Schedule& step) {
  std::map<int, std::vector<Sequence*>> levels;
  for (Sequence* sequence : running_) {
    if (!sequence->decoding()) levels[sequence->priority()].push_back(sequence);
  }
  for (const auto& [priority, prompts] : levels) {
    const std::vector<int> shares = SharePromptRows(prompts, step.rows_left);
    for (size_t i = 0; i < prompts.size(); ++i) {
      if (shares[i] > 0) ScheduleSpan(*prompts[i], shares[i], step);
    }
  }
}

// Whether deadlines allow the sequence to start, though others were passed over: the first of these
// must be able to start as soon as it could without it.
bool Scheduler::MayStart(const Sequence& sequence, std::span<Sequence* const> passed,
                         const Gate& gate) const {
  std::vector<const Sequence*> running(running_.begin(), running_.end());
  if (!gate.forecast.MayStart(sequence, running, /*alone=*/true, gate.now)) return false;
  if (passed.empty()) return true;
  running.push_back(passed.front());
  return gate.forecast.MayStart(sequence, running, /*alone=*/true, gate.now);
}

void Scheduler::Start(Sequence& sequence, Schedule& step) {
  waiting_.NoteTurn(sequence);
  waiting_.Remove(sequence);
  running_.Add(sequence);
  if (!sequence.started()) {
    waiting_.Serve(sequence.request().client, kPromptTokenService * sequence.pending());
    step.started.push_back(&sequence);
  }
  sequence.set_started();
  sequence.set_state(State::kRunning);
  sequence.SetPast();
  WINNOW_CHECK(store_.Extend(sequence.mutable_kv(), sequence.computed(), sequence.length()));
}

void Scheduler::ScheduleSpan(Sequence& sequence, int rows, Schedule& step) {
  step.spans.push_back(sequence.NextSpan(std::min(rows, step.rows_left)));
  step.rows_left -= step.spans.back().rows();
}

// Gives a running sequence the blocks that its next rows need, if they need any. False if it was
// itself the one to give way.
bool Scheduler::MakeRoomToGoOn(Sequence& sequence, Schedule& step) {
  while (!store_.Extend(sequence.mutable_kv(), sequence.computed(), sequence.length())) {
    Sequence& last = running_.NextToGiveWay();
    Preempt(last, step);
    if (&last == &sequence) return false;
  }
  return true;
}

// Whether a waiting sequence can run now, with its forks; preempts others if that helps.
bool Scheduler::MakeRoomToStart(const Sequence& sequence, const Gate& gate, Schedule& step) {
  const auto may_start = [&](bool alone) {
    return gate.forecast.MayStart(sequence, running_, alone, gate.now);
  };
  // One more block than its tokens take, for each continuation, so that it is not preempted at
  // once.
  const int blocks =
      std::min(store_.Missing(sequence.kv(), sequence.computed(), sequence.length()) +
                   sequence.slots() * store_.groups(),
               store_.total_blocks() - sequence.kv().held());
  int slots_without = running_.slots();
  std::vector<const BlockTable*> tables;
  for (const Sequence* other : running_.ThoseWhoGiveWayTo(sequence)) {
    slots_without -= other->slots();
    tables.push_back(&other->kv());
  }
  const int slots = options_.max_running_sequences - sequence.slots();  // for the others
  if (store_.FreeWithout(tables) < blocks || slots_without > slots) return false;
  // Those that rest hold up nobody's deadline: they only give way for blocks and slots.
  while (!may_start(/*alone=*/false)) Preempt(*running_.NextOfLowerPriority(sequence), step);
  while (store_.free_blocks() < blocks || running_.slots() > slots) {
    Preempt(*running_.NextToGiveWayTo(sequence), step);
  }
  return true;
}

// Gives a waiting sequence the blocks that are known already, which then stay while room is made
// for the others.
void Scheduler::TakePrefix(Sequence& sequence) {
  // At least one token is computed, for the logits.
  const int reusable = std::min(sequence.cacheable(), sequence.length() - 1);
  sequence.set_computed(store_.TakePrefix(sequence.tokens().first(static_cast<size_t>(reusable)),
                                          sequence.request().cache_salt, sequence.mutable_kv()));
}

void Scheduler::Preempt(Sequence& sequence, Schedule& step) {
  ReleaseBlocks(sequence);
  std::erase_if(step.spans, [&](const Span& span) {
    if (span.sequence != &sequence) return false;
    step.rows_left += span.rows();
    return true;
  });
  running_.Remove(sequence);
  waiting_.Add(sequence);
  sequence.set_state(State::kWaiting);
  step.preempted.push_back(&sequence);
}

void Scheduler::ReleaseBlocks(Sequence& sequence) {
  store_.Release(sequence.mutable_kv());
  sequence.set_computed(0);
}

}  // namespace winnow
