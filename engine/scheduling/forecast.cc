#include "engine/scheduling/forecast.h"

#include "engine/request/request_check.h"

namespace winnow {
namespace {

/// A deadline binds others if it is so many times the request's own time away.
constexpr double kOrdinary = 1.5;

// Tokens that a sequence may generate at most.
int LimitOf(const Sequence& sequence) { return sequence.max_length() - sequence.prompt_length(); }

}  // namespace

void Forecast::NoteEnd(const Sequence& sequence) {
  lengths_.NoteEnd(sequence.request(), sequence.generated(), LimitOf(sequence));
}

Load Forecast::LoadOf(const Request& request, int known) const {
  const double n = request.n;
  const int prompt = static_cast<int>(request.prompt_tokens.size());
  const double tokens = lengths_.AtLeast(request, LongestSequence(request, options_) - prompt);
  return {.requests = 1,
          .sequences = n,
          .prompt_tokens = static_cast<double>(prompt),
          .decode_tokens = n * tokens,
          .prompts = WorkOfPrompt(known, prompt),
          .context = n * (prompt + tokens / 2)};
}

Load Forecast::LoadOf(const Sequence& sequence, int known) const {
  const double slots = sequence.slots();
  const double remaining = LeastRemaining(sequence);
  const bool decodes = sequence.length() - known == 1;
  return {.sequences = slots,
          .decode_tokens = slots * (sequence.generated() + remaining),
          .prompts = decodes ? Work{} : WorkOfPrompt(known, sequence.length()),
          .context = slots * (sequence.length() + remaining / 2)};
}

Work Forecast::WorkOfPrompt(double begin, double end) const {
  return {.steps = (end - begin) / options_.max_step_tokens,
          .prompt_tokens = end - begin,
          .prompt_context = ContextOf(begin, end)};
}

Work Forecast::RowsOfStep(const Work& prompts) const {
  Work rows =
      prompts * std::min(1.0, options_.max_step_tokens / std::max(1.0, prompts.prompt_tokens));
  rows.steps = 0;
  return rows;
}

double Forecast::LeastRemaining(const Sequence& sequence) const {
  return std::max(1.0,
                  lengths_.AtLeast(sequence.request(), LimitOf(sequence)) - sequence.generated());
}

// Of one that may end by itself, so many times the average answer: it is no nearer to its end for
// having come so far.
double Forecast::Remaining(const Sequence& sequence, double answers) const {
  const int limit = LimitOf(sequence);
  return std::min<double>(std::max(1, limit - sequence.generated()),
                          answers * lengths_.Expected(sequence.request(), limit));
}

bool Forecast::ClaimsAll(const Load& request, double seconds) const {
  const double tokens = request.decode_tokens / request.sequences;
  return EndOf(PaceOf(request), {}, tokens).at_least * kOrdinary > seconds;
}

bool Forecast::Overdue(const Sequence& waiting, int known, const Load& running,
                       absl::Time now) const {
  if (running.sequences == 0) return false;
  const Load own = LoadOf(waiting, known);
  Load all = running + own;
  all.prompts = own.prompts;  // others may be computed beside it
  const Estimate end = EndOf(PaceOf(all), {}, LeastRemaining(waiting));
  return now + absl::Seconds(end.at_least) >= waiting.request().deadline;
}

Forecast::Pace Forecast::PaceOf(const Load& running) {
  return {
      .wait = running.prompts,
      .step = {.steps = 1, .decode_tokens = running.sequences, .decode_context = running.context}};
}

Forecast::Pace Forecast::PaceAfter(const Load& ahead, const RunningLoad& running, const Load& own,
                                   int priority, const std::string& client) const {
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
  const Load all = before + ahead + own;
  const Work step =
      Work{.steps = 1,
           .decode_tokens = concurrent,
           .decode_context = concurrent * all.context / std::max(1.0, all.sequences)} *
      costs_.LoadFactor(priority);
  return {.wait = running.prompts.Beside(priority, client, own.prompts) +
                  ahead.prompts * (beside / std::max(1.0, ahead.sequences)) +
                  step * (1 + turns * mean_tokens / concurrent),
          .step = step};
}

}  // namespace winnow
