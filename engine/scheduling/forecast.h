#pragma once

#include <algorithm>

#include "absl/time/time.h"
#include "engine/request/engine_options.h"
#include "engine/request/request.h"
#include "engine/scheduling/load.h"
#include "engine/scheduling/step_costs.h"
#include "engine/sequence/sequence.h"

namespace winnow {

/// Says when something would end, by measured costs: a request that comes, a sequence that waits,
/// one that may be started, and those that run. A value: the engine thread keeps the one that
/// learns, threads that submit ask a copy of it.
///
/// Every answer is one formula,
///     end = wait + its prompt's time + its tokens x a step's time
/// (EndSeconds), and differs in the wait and in the sequences that a step decodes for (Pace).
/// Until costs are known, all times are 0, nothing is overdue and everything may start.
class Forecast {
 public:
  explicit Forecast(const EngineOptions& options) : options_(options) {}

  /// What is measured goes here.
  StepCosts& mutable_costs() { return costs_; }
  const StepCosts& costs() const { return costs_; }
  /// Whether there is anything to estimate by.
  bool known() const { return costs_.known(); }

  /// What a request asks for, as far as is known now; a prompt that is missing counts nothing.
  Load LoadOf(const Request& request) const;
  /// What a running sequence, with its forks, asks for: see RunningLoad.
  Load LoadOf(const Sequence& running) const;
  /// Expected tokens until the sequence's end, at least 1.
  double RemainingTokens(const Sequence& sequence) const;

  /// How soon something gets on.
  struct Pace {
    double wait_seconds;  ///< until its own prompt is computed
    double step_seconds;  ///< from one of its tokens to the next
  };
  /// Seconds until the end of what has so many tokens to compute and then so many to generate.
  double EndSeconds(const Pace& pace, double prompt_tokens, double tokens) const;

  /// Of so many sequences that run alone, once so many prompt tokens are computed.
  Pace PaceOf(double prompt_tokens, double sequences) const;

  /// Of a request that comes and has `ahead` before it:
  ///     wait = prompts that start before it without waiting + turns before its own
  /// with a turn for every sequence before it that finds no free slot: one of so many as run ends
  /// after the mean number of tokens. A step decodes for all that would run then, with the prompts
  /// that come meanwhile (LoadedDecodeSeconds). What runs with a lower priority gives way and does
  /// not count.
  Pace PaceAfter(const Load& ahead, const RunningLoad& running, int priority) const;

  // Below, `running` is any range of pointers to sequences, those that run now.

  /// Whether a waiting sequence would end after its deadline even if it were started now, so that
  /// what it cost would be lost. When nothing of its or a higher priority runs it is let try.
  template <typename Running>
  bool Overdue(const Sequence& waiting, const Running& running, absl::Time now) const;

  /// Whether a waiting sequence would end in time if it were started now, unless it has been
  /// before, and would not keep a running one from that. All steps are taken to decode for as many
  /// sequences as would run then, after the prompts are computed. Sequences that will be late in
  /// any case hold up nobody, and those of lower priority none of a higher one; with `alone`, the
  /// latter are taken to have given way. What is known of its prompt counts as computed.
  template <typename Running>
  bool MayStart(const Sequence& waiting, const Running& running, bool alone, absl::Time now) const;

 private:
  bool EndsInTime(const Sequence& sequence, const Pace& pace, double prompt_tokens,
                  absl::Time now) const;

  EngineOptions options_;
  StepCosts costs_;
};

template <typename Running>
bool Forecast::Overdue(const Sequence& waiting, const Running& running, absl::Time now) const {
  if (!known()) return false;
  const auto before = std::ranges::count_if(
      running, [&](const Sequence* other) { return other->priority() <= waiting.priority(); });
  return before > 0 &&
         !EndsInTime(waiting, PaceOf(0, static_cast<double>(before + 1)), waiting.pending(), now);
}

template <typename Running>
bool Forecast::MayStart(const Sequence& waiting, const Running& running, bool alone,
                        absl::Time now) const {
  const int priority = waiting.request().priority;  // promotion takes from nobody
  double prompt_tokens = 0;
  double sequences = 0;
  for (const Sequence* other : running) {
    if (other->resting() || (alone && other->priority() > priority)) continue;
    if (!other->decoding()) prompt_tokens += other->pending();
    sequences += other->slots();
  }
  if (sequences == 0 || !known()) return true;
  const Pace without = PaceOf(prompt_tokens, sequences);
  const Pace with = PaceOf(prompt_tokens + waiting.pending(), sequences + waiting.slots());
  return (waiting.started() || EndsInTime(waiting, with, 0, now)) &&
         std::ranges::all_of(running, [&](const Sequence* other) {
           return other->resting() || other->priority() > priority ||
                  EndsInTime(*other, with, 0, now) || !EndsInTime(*other, without, 0, now);
         });
}

}  // namespace winnow
