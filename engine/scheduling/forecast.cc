#include "engine/scheduling/forecast.h"

#include "engine/request/request_check.h"

namespace winnow {

Load Forecast::LoadOf(const Request& request) const {
  const double n = request.n;
  const int prompt = static_cast<int>(request.prompt_tokens.size());
  return {1, n, static_cast<double>(prompt),
          n * costs_.ExpectedTokens(request, LongestSequence(request, options_) - prompt)};
}

Load Forecast::LoadOf(const Sequence& running) const {
  const double sequences = running.slots();
  return {0, sequences, static_cast<double>(running.decoding() ? 0 : running.pending()),
          sequences * (running.generated() + RemainingTokens(running))};
}

double Forecast::RemainingTokens(const Sequence& sequence) const {
  const int limit = sequence.max_length() - sequence.prompt_length();
  const double expected = costs_.ExpectedTokens(sequence.request(), limit);
  return std::max(1.0, expected - sequence.generated());
}

double Forecast::EndSeconds(const Pace& pace, double prompt_tokens, double tokens) const {
  return pace.wait_seconds + costs_.PrefillSeconds(prompt_tokens) + tokens * pace.step_seconds;
}

Forecast::Pace Forecast::PaceOf(double prompt_tokens, double sequences) const {
  return {costs_.PrefillSeconds(prompt_tokens), costs_.DecodeSeconds(sequences)};
}

Forecast::Pace Forecast::PaceAfter(const Load& ahead, const RunningLoad& running,
                                   int priority) const {
  const Load before = running.DownTo(priority);
  const bool blocked =
      running.blocked_priority.has_value() && *running.blocked_priority <= priority;
  const double free_slots = blocked ? 0 : options_.max_running_sequences - before.sequences;
  const double beside = std::min(ahead.sequences, free_slots);
  const double concurrent =
      std::max(1.0, before.sequences + beside + (free_slots > beside ? 1 : 0));
  const double turns = std::max(0.0, ahead.sequences + 1 - free_slots);
  const double mean_tokens = (before.decode_tokens + ahead.decode_tokens) /
                             std::max(1.0, before.sequences + ahead.sequences);
  const double prompts =
      before.prompt_tokens + ahead.prompt_tokens * beside / std::max(1.0, ahead.sequences);
  const double step = costs_.LoadedDecodeSeconds(concurrent, priority);
  return {costs_.PrefillSeconds(prompts) + turns * mean_tokens * step / concurrent, step};
}

bool Forecast::EndsInTime(const Sequence& sequence, const Pace& pace, double prompt_tokens,
                          absl::Time now) const {
  const absl::Time deadline = sequence.request().deadline;
  if (deadline == absl::InfiniteFuture()) return true;
  const double seconds = EndSeconds(pace, prompt_tokens, RemainingTokens(sequence));
  return now + absl::Seconds(seconds) < deadline;
}

}  // namespace winnow
