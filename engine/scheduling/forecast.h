#pragma once

#include <algorithm>
#include <string>

#include "absl/time/time.h"
#include "engine/request/engine_options.h"
#include "engine/request/request.h"
#include "engine/scheduling/answer_lengths.h"
#include "engine/scheduling/load.h"
#include "engine/scheduling/step_costs.h"
#include "engine/scheduling/work.h"
#include "engine/sequence/sequence.h"

namespace winnow {

/// Says when something would end, by what was measured: a request that comes, a sequence that
/// waits, one that may be started, and those that run. A value: the engine thread keeps the one
/// that learns, threads that submit ask a copy of it.
///
/// Every answer sums up the work until then, by one formula,
///     work = what is before it + its prompt + its tokens x a step
/// (EndOf), and differs in what is before it and in what a step decodes for (Pace). StepCosts turns
/// work into time.
///
/// Who is refused or dropped is so by the least time that its work takes (Estimate::at_least), and
/// so nobody is while nothing is known. Who is started is so by the likely time: to wait does no
/// harm, and those that run were promised their end.
class Forecast {
 public:
  explicit Forecast(const EngineOptions& options) : options_(options) {}

  /// Takes note of a step that was computed, and its duration.
  void NoteStep(const StepWork& step, double seconds) { costs_.NoteStep(step, seconds); }
  /// Takes note of a sequence that has ended, and not because its request was ended early.
  void NoteEnd(const Sequence& sequence);

  /// What a request asks for at least, if so many tokens of its prompt are known.
  Load LoadOf(const Request& request, int known) const;
  /// What a running sequence, with its forks, asks for at least: see RunningLoad.
  Load LoadOf(const Sequence& running) const { return LoadOf(running, running.computed()); }

  /// How something gets on.
  struct Pace {
    Work wait;  ///< until its own prompt is computed
    Work step;  ///< from one of its tokens to the next
  };
  /// Until the end of what has such a prompt and then so many tokens to generate.
  Estimate EndOf(const Pace& pace, const Work& prompt, double tokens) const {
    return costs_.SecondsOf(pace.wait + prompt + pace.step * tokens);
  }
  /// Until its own prompt is computed.
  Estimate WaitOf(const Pace& pace) const { return costs_.SecondsOf(pace.wait); }

  /// Of what runs beside nothing else, once its prompts are computed.
  static Pace PaceOf(const Load& running);

  /// Of a request that comes and has `ahead` before it:
  ///     wait = the step under way + prompts that run, as far as they share its steps
  ///            + prompts that start before it without waiting + turns before its own
  /// with a turn for every sequence before it that finds no free slot: one of so many as run ends
  /// after the mean number of tokens. A step decodes for all that would run then, with the prompts
  /// that come meanwhile (StepCosts::LoadFactor). What runs with a lower priority gives way and
  /// does not count.
  Pace PaceAfter(const Load& ahead, const RunningLoad& running, const Load& own, int priority,
                 const std::string& client) const;

  /// Whether a request with so many seconds to its deadline claims the engine for itself: even
  /// alone it would have less than half of its own time to spare. Such a deadline is met if nothing
  /// else is there to do, but binds nobody else.
  bool ClaimsAll(const Load& request, double seconds) const;

  /// Whether a waiting sequence of whose prompt so many tokens are known would end after its
  /// deadline even if it were started now, so that what it cost would be lost. When nothing of its
  /// or a higher priority runs (LoadDownTo) it is let try.
  bool Overdue(const Sequence& waiting, int known, const Load& running, absl::Time now) const;

  // Below, `running` is any range of pointers to sequences, those that run now. Those that rest do
  // not count.

  /// What those of this priority and higher ones ask for.
  template <typename Running>
  Load LoadDownTo(int priority, const Running& running) const;

  /// Whether a waiting sequence would end in time if it were started now, unless it has been
  /// before, and would not keep a running one from that. All steps are taken to decode for as many
  /// sequences as would run then, after the prompts are computed, or, for the waiting one, beside
  /// prompts that go on in every step, if it ends earlier so. Sequences that will be late in
  /// any case, or claim the engine, hold up nobody, and those of lower priority none of a higher
  /// one; with `alone`, the latter are taken to have given way.
  template <typename Running>
  bool MayStart(const Sequence& waiting, const Running& running, bool alone, absl::Time now) const;

 private:
  /// Those that run are protected up to answers so many times as long as the average: six in seven
  /// if they may end at any token alike.
  static constexpr double kProtectedAnswers = 2;

  Load LoadOf(const Sequence& sequence, int known) const;
  Work WorkOfPrompt(double begin, double end) const;
  /// What a step computes of prompts, beside the step itself.
  Work RowsOfStep(const Work& prompts) const;
  double LeastRemaining(const Sequence& sequence) const;
  double Remaining(const Sequence& sequence, double answers) const;

  EngineOptions options_;
  StepCosts costs_;
  AnswerLengths lengths_;
};

template <typename Running>
Load Forecast::LoadDownTo(int priority, const Running& running) const {
  Load sum;
  for (const Sequence* sequence : running) {
    if (!sequence->resting() && sequence->priority() <= priority) sum += LoadOf(*sequence);
  }
  return sum;
}

template <typename Running>
bool Forecast::MayStart(const Sequence& waiting, const Running& running, bool alone,
                        absl::Time now) const {
  const int priority = waiting.request().priority;  // promotion takes from nobody
  Load before;
  RunningPrompts prompts;
  for (const Sequence* other : running) {
    if (other->resting() || (alone && other->priority() > priority)) continue;
    const Load load = LoadOf(*other);
    before += load;
    prompts.Add(other->priority(), other->request().client, load.prompts);
  }
  if (before.sequences == 0) return true;
  const Load own = LoadOf(waiting);
  const Pace without = PaceOf(before);
  const Pace with = PaceOf(before + own);
  const Pace beside = {
      .wait = prompts.Beside(priority, waiting.request().client, own.prompts) + own.prompts,
      .step = with.step + RowsOfStep(before.prompts)};
  const auto in_time = [&](const Sequence& sequence, double tokens, const Pace& pace) {
    const absl::Time deadline = sequence.request().deadline;
    if (deadline == absl::InfiniteFuture()) return true;
    return now + absl::Seconds(EndOf(pace, {}, tokens).seconds) < deadline;
  };
  const double own_tokens = Remaining(waiting, 1);
  return (waiting.started() || in_time(waiting, own_tokens, with) ||
          in_time(waiting, own_tokens, beside)) &&
         std::ranges::all_of(running, [&](const Sequence* other) {
           if (other->resting() || other->claims_all() || other->priority() > priority) return true;
           const double tokens = Remaining(*other, kProtectedAnswers);
           return in_time(*other, tokens, with) || !in_time(*other, tokens, without);
         });
}

}  // namespace winnow
