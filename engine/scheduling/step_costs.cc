#include "engine/scheduling/step_costs.h"

#include <algorithm>

namespace winnow {
namespace {

/// What a step, or an end, still counts after the next one.
constexpr double kMemory = 0.99;
/// How much the fit of decode steps leans towards time being proportional to rows: little when rows
/// vary, entirely when they do not.
constexpr double kProportionalWeight = 0.02;
/// Of the time; the first steps of all compute nothing but prompts.
constexpr double kMaxPromptShare = 0.9;

}  // namespace

void StepCosts::NoteStep(const std::map<int, int>& prefill_tokens, int decode_tokens,
                         double seconds) {
  all_seconds_ = all_seconds_ * kMemory + seconds;
  for (auto& [priority, sum] : prompt_seconds_) sum *= kMemory;
  if (prefill_tokens.empty()) {
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
  double tokens = 0;
  for (const auto& [priority, count] : prefill_tokens) tokens += count;
  const double of_prompts = decode_.steps > 0
                                ? std::max(0.0, seconds - DecodeSeconds(decode_tokens))
                                : seconds * tokens / (tokens + decode_tokens);
  prefill_tokens_ = prefill_tokens_ * kMemory + tokens;
  prefill_seconds_ = prefill_seconds_ * kMemory + of_prompts;
  for (const auto& [priority, count] : prefill_tokens) {
    prompt_seconds_[priority] += of_prompts * count / tokens;
  }
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
  if (sequences == 0) return 0;
  if (decode_.steps == 0) return PrefillSeconds(sequences);
  const double rows = decode_.rows / decode_.steps;
  const double seconds = decode_.seconds / decode_.steps;
  const double variance = decode_.rows_squared / decode_.steps - rows * rows;
  const double covariance = decode_.rows_seconds / decode_.steps - rows * seconds;
  const double slope = std::clamp((covariance + kProportionalWeight * rows * seconds) /
                                      (std::max(0.0, variance) + kProportionalWeight * rows * rows),
                                  0.0, seconds / rows);
  return seconds + slope * (sequences - rows);
}

double StepCosts::LoadedDecodeSeconds(double sequences, int priority) const {
  double prompts = 0;
  double others = 0;
  for (const auto& [level, seconds] : prompt_seconds_) {
    (level <= priority ? prompts : others) += seconds;
  }
  const double all = all_seconds_ - others;
  const double share = all <= 0 ? 0 : prompts / all;
  return DecodeSeconds(sequences) / (1 - std::min(share, kMaxPromptShare));
}

double StepCosts::ExpectedTokens(const Request& request, int limit) const {
  const double share = request.ignore_eos || ends_ == 0 ? 1 : shares_ / ends_;
  return std::max(1.0, share * limit);
}

}  // namespace winnow
