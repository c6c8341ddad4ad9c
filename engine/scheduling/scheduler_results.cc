// What the scheduler takes note of once a step has been computed.
#include <algorithm>
#include <vector>

#include "engine/base/check.h"
#include "engine/scheduling/scheduler.h"

namespace winnow {

using State = Sequence::State;

void Scheduler::NoteComputed(const Span& span) {
  Sequence& sequence = *span.sequence;
  WINNOW_CHECK(sequence.state() == State::kRunning);
  sequence.set_computed(std::min(span.end(), sequence.length()));
  Publish(sequence);
  // What lies behind the windows of a prompt is what lies before them needs. Where others share it,
  // room is made when the next step is formed.
  store_.FreeBehind(sequence.mutable_kv(), sequence.computed());
  store_.Extend(sequence.mutable_kv(), sequence.computed(), sequence.length());
}

void Scheduler::Publish(Sequence& sequence) {
  const int tokens = std::min(sequence.computed(), sequence.cacheable());
  store_.Publish(sequence.mutable_kv(), sequence.tokens().first(static_cast<size_t>(tokens)),
                 sequence.request().cache_salt);
}

absl::Status Scheduler::Fork(Sequence& parent) {
  WINNOW_CHECK(parent.state() == State::kRunning && parent.pending() == 0);
  const std::vector<Sequence*> forks(parent.forks().begin(), parent.forks().end());
  parent.set_forks({});
  for (Sequence* child : forks) {
    WINNOW_CHECK(child->state() == State::kNew && child->length() == parent.length());
    child->set_started();
    child->Promote(parent.priority());
    const absl::StatusOr<bool> forked =
        store_.Fork(parent.kv(), parent.length(), child->mutable_kv());
    if (!forked.ok()) return forked.status();
    if (!*forked) {
      Add(*child);
      continue;
    }
    child->set_state(State::kRunning);
    child->set_computed(parent.computed());
    child->SetPast();
    running_.Add(*child);
  }
  return absl::OkStatus();
}

void Scheduler::NoteAccepted(Sequence& sequence, int tokens) {
  if (sequence.state() != State::kRunning) return;  // a fork without room
  Publish(sequence);
  store_.FreeBehind(sequence.mutable_kv(), sequence.computed());
  store_.Trim(sequence.mutable_kv(), sequence.length());
  waiting_.Serve(sequence.request().client, kDecodeTokenService * (tokens - 1));
}

void Scheduler::Remove(Sequence& sequence) {
  ReleaseBlocks(sequence);
  if (sequence.state() == State::kWaiting) waiting_.Remove(sequence);
  running_.Remove(sequence);
  sequence.set_state(State::kFinished);
}

}  // namespace winnow
