#pragma once

#include <map>

#include "engine/request/request.h"

namespace winnow {

/// What the engine's work costs, measured while it works: moving averages over steps, in which a
/// step counts for 1 % less with each later one.
///
///   - A step that only decodes takes `base + slope * rows` seconds. Both are fitted by least
///     squares; while all steps had about the same number of rows, time is taken to be
///     proportional to it. Before any step only decoded, a row is taken to cost what one of a
///     prompt does.
///   - Prompt tokens take what is left of the other steps, evenly.
///   - While load lasts, prompts of requests to come will take the share of time that prompts of
///     their priority and higher ones took so far.
///   - A continuation that may end by itself gets a share of the tokens that it may have at most:
///     the average share of those that have ended.
class StepCosts {
 public:
  /// Takes note of a step that was computed: prompt tokens by priority, generated ones, of which
  /// there is at least one in all, and its duration.
  void NoteStep(const std::map<int, int>& prefill_tokens, int decode_tokens, double seconds);

  /// Takes note of a continuation that has ended with so many tokens of at most `limit`, and not
  /// because its request was ended early.
  void NoteEnd(const Request& request, int generated_tokens, int limit);

  /// Whether there is anything to estimate by.
  bool known() const { return prefill_tokens_ > 0; }

  /// Seconds in which so many prompt tokens are computed.
  double PrefillSeconds(double tokens) const;

  /// Seconds of a step that decodes for so many sequences.
  double DecodeSeconds(double sequences) const;

  /// From one such step to the next while load lasts, with the prompts in between: those of the
  /// priority and of higher ones, as if others did not exist.
  double LoadedDecodeSeconds(double sequences, int priority) const;

  /// Tokens that a continuation of the request probably gets, of at most `limit`.
  double ExpectedTokens(const Request& request, int limit) const;

 private:
  /// Weighted sums over steps that only decoded.
  struct DecodeSums {
    double steps = 0;
    double rows = 0;
    double rows_squared = 0;
    double seconds = 0;
    double rows_seconds = 0;
  };

  DecodeSums decode_;
  double prefill_tokens_ = 0;
  double prefill_seconds_ = 0;
  double all_seconds_ = 0;                ///< of steps of any kind
  std::map<int, double> prompt_seconds_;  ///< of these, those that prompts took, by priority
  double ends_ = 0;
  double shares_ = 0;  ///< of max_tokens, summed over ends_
};

}  // namespace winnow
