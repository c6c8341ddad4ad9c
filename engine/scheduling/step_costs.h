#pragma once

#include <map>

#include "engine/scheduling/cost_fit.h"
#include "engine/scheduling/work.h"

namespace winnow {

/// What the engine's work costs, measured while it works: how long work takes (CostFit), and how
/// much of the time goes to prompts. While load lasts, prompts of requests to come will take the
/// share of time that prompts of their priority and higher ones took so far, a moving average in
/// which a step counts for 1 % less with each later one.
class StepCosts {
 public:
  /// Takes note of a step that was computed, and its duration.
  void NoteStep(const StepWork& step, double seconds);

  Estimate SecondsOf(const Work& work) const { return fit_.SecondsOf(work); }

  /// How many times as long decode steps take while load lasts, for the prompts in between: those
  /// of the priority and of higher ones, as if others did not exist.
  double LoadFactor(int priority) const;

 private:
  CostFit fit_;
  double all_seconds_ = 0;                ///< of steps of any kind
  std::map<int, double> prompt_seconds_;  ///< of these, those that prompts took, by priority
};

}  // namespace winnow
