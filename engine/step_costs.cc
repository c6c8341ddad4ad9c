#include "engine/step_costs.h"

#include <algorithm>

namespace winnow {
namespace {

/// What a step, or an end, still counts after the next one.
constexpr double kMemory = 0.99;
/// How much the fit of decode steps leans towards time being proportional to rows: little when rows
/// vary, entirely when they do not.
constexpr double kProportionalWeight = 0.02;

}  // namespace

void StepCosts::NoteStep(int prefill_tokens, int decode_tokens, double seconds) {
  if (prefill_tokens == 0) {
    for (double* sum : {&decode_.steps, &decode_.rows, &decode_.rows_squared, &decode_.seconds,
                        &decode_.rows_seconds}) {
      *sum *= kMemory;
    }
    const double rows = decode_tokens;
    decode_.steps += 1;
    decode_.rows += rows;
    decode_.rows_squared += rows * rows;
    decode_.seconds += seconds;
    decode_.rows_seconds += rows * seconds;
    return;
  }
  prefill_tokens_ = prefill_tokens_ * kMemory + prefill_tokens;
  prefill_seconds_ = prefill_seconds_ * kMemory +
                     std::max(0.0, seconds - (decode_tokens > 0 ? DecodeSeconds(decode_tokens) : 0));
}

void StepCosts::NoteEnd(const Request& request, int generated_tokens, int limit) {
  if (request.ignore_eos) return;  // it had no choice
  ends_ = ends_ * kMemory + 1;
  shares_ = shares_ * kMemory + static_cast<double>(generated_tokens) / limit;
}

double StepCosts::PrefillSeconds(double tokens) const {
  return prefill_tokens_ == 0 ? 0 : tokens * prefill_seconds_ / prefill_tokens_;
}

double StepCosts::DecodeSeconds(double sequences) const {
  if (decode_.steps == 0) return 0;
  const double rows = decode_.rows / decode_.steps;
  const double seconds = decode_.seconds / decode_.steps;
  const double variance = decode_.rows_squared / decode_.steps - rows * rows;
  const double covariance = decode_.rows_seconds / decode_.steps - rows * seconds;
  const double slope =
      std::clamp((covariance + kProportionalWeight * rows * seconds) /
                     (std::max(0.0, variance) + kProportionalWeight * rows * rows),
                 0.0, seconds / rows);
  return seconds + slope * (sequences - rows);
}

double StepCosts::ExpectedTokens(const Request& request, int limit) const {
  const double share = request.ignore_eos || ends_ == 0 ? 1 : shares_ / ends_;
  return std::max(1.0, share * limit);
}

}  // namespace winnow
