#include <vector>

#include "engine/base/check.h"
#include "engine/scheduling/scheduler.h"

namespace winnow {

using State = Sequence::State;

void Scheduler::CheckInvariants() const {
  std::vector<KvStore::Holding> holdings;
  for (const Sequence* sequence : running_) {
    WINNOW_CHECK(sequence->state() == State::kRunning);
    WINNOW_CHECK(!sequence->decoding() || sequence->pending() == 1);
    // The block for the token chosen last is assigned when that is scheduled, with those of drafts.
    const auto drafts = static_cast<int>(sequence->drafts().size());
    const int least = sequence->decoding() ? sequence->computed() : sequence->length();
    holdings.push_back({&sequence->kv(), sequence->computed(), least, sequence->length() + drafts});
  }
  store_.CheckInvariants(holdings);
  waiting_.ForEach([](const Sequence& sequence) {
    WINNOW_CHECK(sequence.state() == State::kWaiting);
    WINNOW_CHECK(sequence.kv().empty() && sequence.computed() == 0);
  });
  WINNOW_CHECK(running_.slots() <= options_.max_running_sequences);
}

}  // namespace winnow
