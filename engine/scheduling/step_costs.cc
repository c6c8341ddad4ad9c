#include "engine/scheduling/step_costs.h"

#include <algorithm>

namespace winnow {
namespace {

/// What a step still counts after the next one.
constexpr double kMemory = 0.99;
/// Of the time; the first steps of all compute nothing but prompts.
constexpr double kMaxPromptShare = 0.9;

}  // namespace

void StepCosts::NoteStep(const StepWork& step, double seconds) {
  fit_.Add(step.all, seconds);
  all_seconds_ = all_seconds_ * kMemory + seconds;
  for (auto& [priority, sum] : prompt_seconds_) sum *= kMemory;
  const double expected = SecondsOf(step.all).seconds;
  if (expected == 0) return;
  for (const auto& [priority, work] : step.prompts) {
    prompt_seconds_[priority] += seconds * std::min(1.0, SecondsOf(work).seconds / expected);
  }
}

double StepCosts::LoadFactor(int priority) const {
  double prompts = 0;
  double others = 0;
  for (const auto& [level, seconds] : prompt_seconds_) {
    (level <= priority ? prompts : others) += seconds;
  }
  const double all = all_seconds_ - others;
  const double share = all <= 0 ? 0 : prompts / all * fit_.trust();
  return 1 / (1 - std::min(share, kMaxPromptShare));
}

}  // namespace winnow
