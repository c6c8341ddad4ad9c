// Steps whose costs are known, for tests of those who learn them.
#pragma once

#include <functional>
#include <random>

#include "engine/scheduling/work.h"

namespace winnow {

/// What one of each term of Work takes, in seconds.
using KnownCosts = Work;

inline double SecondsOf(const Work& work, const KnownCosts& costs) {
  double seconds = 0;
  for (size_t i = 0; i < Work::kTerms; ++i) seconds += work.terms()[i] * costs.terms()[i];
  return seconds;
}

/// A step of so many sequences that decode, with `context` tokens each, beside the rows [begin,
/// end) of a prompt of this priority.
inline StepWork Step(double sequences, double context, double begin = 0, double end = 0,
                     int priority = 0) {
  StepWork step({});
  step.all += {.decode_tokens = sequences, .decode_context = sequences * context};
  if (end > begin) {
    step.prompts[priority] = {.prompt_tokens = end - begin,
                              .prompt_context = ContextOf(begin, end)};
    step.all += step.prompts[priority];
  }
  return step;
}

/// Lets `note` take note of steps of all kinds, then of so many that only decode that prompts have
/// taken next to none of the time.
inline void Teach(const KnownCosts& costs,
                  const std::function<void(const StepWork&, double seconds)>& note) {
  std::mt19937_64 random(1);
  const auto between = [&](int low, int high) {
    return std::uniform_int_distribution<int>(low, high)(random);
  };
  for (int i = 0; i < 2500; ++i) {
    const int begin = between(0, 500);
    const int rows = i < 500 && i % 2 == 0 ? between(1, 500) : 0;
    const StepWork step =
        Step(between(rows == 0 ? 1 : 0, 10), between(1, 1000), begin, begin + rows);
    note(step, SecondsOf(step.all, costs));
  }
}

}  // namespace winnow
