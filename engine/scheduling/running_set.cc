#include "engine/scheduling/running_set.h"

#include <algorithm>

namespace winnow {

int RunningSet::slots() const {
  int slots = 0;
  for (const Sequence* sequence : sequences_) slots += sequence->slots();
  return slots;
}

bool RunningSet::GivesWay(const Sequence& running, const Sequence& waiting) {
  return running.resting() || running.priority() > waiting.request().priority;
}

std::vector<Sequence*> RunningSet::ThoseWhoGiveWayTo(const Sequence& waiting) const {
  std::vector<Sequence*> result;
  std::ranges::copy_if(sequences_, std::back_inserter(result),
                       [&](const Sequence* sequence) { return GivesWay(*sequence, waiting); });
  return result;
}

Sequence* RunningSet::NextToGiveWayTo(const Sequence& waiting) const {
  if (Sequence* resting = LastResting()) return resting;
  return NextOfLowerPriority(waiting);
}

Sequence* RunningSet::NextOfLowerPriority(const Sequence& waiting) const {
  const auto last = std::find_if(sequences_.rbegin(), sequences_.rend(), [&](const Sequence* s) {
    return !s->resting() && GivesWay(*s, waiting);
  });
  return last == sequences_.rend() ? nullptr : *last;
}

Sequence& RunningSet::NextToGiveWay() const {
  Sequence* resting = LastResting();
  return resting != nullptr ? *resting : **sequences_.rbegin();
}

Sequence* RunningSet::LastResting() const {
  const auto last = std::find_if(sequences_.rbegin(), sequences_.rend(),
                                 [](const Sequence* s) { return s->resting(); });
  return last == sequences_.rend() ? nullptr : *last;
}

}  // namespace winnow
