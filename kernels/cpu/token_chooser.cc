#include "kernels/cpu/token_chooser.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>

namespace winnow::cpu {

void TokenChooser::Reserve(size_t vocab) {
  edited_.reserve(vocab);
  candidates_.reserve(vocab);
}

int32_t TokenChooser::Choose(std::span<const float> logits, const TokenChoice& choice) {
  logits = Edit(logits, choice);
  if (HasNan(logits)) return kLogitsNotFinite;
  const int32_t token = LargestLogit(logits);
  const float largest = logits[static_cast<size_t>(token)];
  if (!std::isfinite(largest)) {
    return largest < 0 && !choice.edits.empty() ? kNoTokenLeft : kLogitsNotFinite;
  }
  if (choice.temperature == 0) return token;

  const bool has_top_k = choice.top_k > 0 && static_cast<size_t>(choice.top_k) < logits.size();
  if (has_top_k) {
    KeepLargest(logits, static_cast<size_t>(choice.top_k), &candidates_);
  } else {
    candidates_.resize(logits.size());
    for (size_t i = 0; i < logits.size(); ++i)
      candidates_[i] = {logits[i], static_cast<int32_t>(i)};
  }
  for (TokenValue& candidate : candidates_) {
    candidate.value = std::exp((candidate.value - largest) / choice.temperature);
  }
  if (choice.top_p < 1) KeepNucleus(choice.top_p, has_top_k);
  if (choice.min_p > 0) {
    std::erase_if(candidates_, [&](const TokenValue& c) { return c.value < choice.min_p; });
  }
  return Draw(choice.uniform);
}

// The logits after edits: a copy if there are any, for only a few tokens change.
std::span<const float> TokenChooser::Edit(std::span<const float> logits,
                                          const TokenChoice& choice) {
  if (choice.edits.empty()) return logits;
  edited_.assign(logits.begin(), logits.end());
  for (const LogitEdit& edit : choice.edits) {
    float& logit = edited_[static_cast<size_t>(edit.token)];
    logit += edit.bias;
    if (edit.count < 0) continue;
    logit = logit > 0 ? logit / choice.repetition_penalty : logit * choice.repetition_penalty;
    if (edit.count == 0) continue;
    logit -= choice.presence_penalty;
    logit -= choice.frequency_penalty * static_cast<float>(edit.count);
  }
  return edited_;
}

// Keeps the smallest set of candidates whose weight reaches top_p of the whole.
void TokenChooser::KeepNucleus(double top_p, bool sorted) {
  double total = 0;
  for (const TokenValue& candidate : candidates_) total += candidate.value;
  if (!sorted) {
    // Candidates below this weigh less than 1 - top_p all together: none of them is needed, and
    // few are left to sort.
    const double floor = (1 - top_p) * total / static_cast<double>(candidates_.size());
    std::erase_if(candidates_, [&](const TokenValue& c) { return c.value < floor; });
    std::sort(candidates_.begin(), candidates_.end(), Before);
  }
  double reached = 0;
  size_t count = 0;
  while (count < candidates_.size() && (count == 0 || reached < top_p * total)) {
    reached += candidates_[count++].value;
  }
  candidates_.resize(count);
}

int32_t TokenChooser::Draw(double uniform) const {
  double total = 0;
  for (const TokenValue& candidate : candidates_) total += candidate.value;
  const double target = uniform * total;
  double reached = 0;
  int32_t last = -1;  // rounding may leave `reached` just under the target at the end
  for (const TokenValue& candidate : candidates_) {
    if (candidate.value == 0) continue;
    last = candidate.token;
    reached += candidate.value;
    if (reached > target) break;
  }
  return last;
}

}  // namespace winnow::cpu
