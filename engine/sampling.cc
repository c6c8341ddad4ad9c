#include "engine/sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/status/status.h"
#include "engine/model/logits.h"

namespace winnow {
namespace {

// The finalizer of SplitMix64: every bit of the input moves every bit of the output.
uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

bool HasNan(std::span<const float> logits) {
  // Without a branch, so that it becomes vectors.
  int unordered = 0;
  for (const float logit : logits) unordered |= logit != logit;
  return unordered != 0;
}

absl::Status NotFinite() {
  return absl::InternalError("the model returned logits that are not finite numbers");
}

}  // namespace

double UniformAt(uint64_t seed, int index, int position) {
  const uint64_t bits =
      Mix(Mix(Mix(seed) ^ static_cast<uint64_t>(index)) ^ static_cast<uint64_t>(position));
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

TokenHistory::TokenHistory(const SamplingParams& params, std::span<const int32_t> prompt)
    : counts_output_(params.repetition_penalty != 1 || params.presence_penalty != 0 ||
                     params.frequency_penalty != 0) {
  if (params.repetition_penalty == 1) return;
  for (const int32_t token : prompt) output_counts_.try_emplace(token, 0);
}

void TokenHistory::Append(int32_t token) {
  if (counts_output_) ++output_counts_[token];
}

// More probable first, lowest id first among equals.
bool Sampler::Before(const Candidate& a, const Candidate& b) {
  return a.value > b.value || (a.value == b.value && a.token < b.token);
}

absl::StatusOr<int32_t> Sampler::Choose(std::span<const float> logits, const SamplingParams& params,
                                        const TokenHistory& history, double uniform) {
  logits = Edit(logits, params, history);
  if (HasNan(logits)) return NotFinite();
  const int32_t largest = LargestLogit(logits);
  if (logits[largest] == std::numeric_limits<float>::infinity()) return NotFinite();
  if (logits[largest] == -std::numeric_limits<float>::infinity()) {
    return absl::InvalidArgumentError("logit_bias leaves no token that can be chosen");
  }
  if (params.temperature == 0) return largest;

  const bool has_top_k = params.top_k > 0 && static_cast<size_t>(params.top_k) < logits.size();
  if (has_top_k) {
    KeepLargest(logits, static_cast<size_t>(params.top_k));
  } else {
    candidates_.resize(logits.size());
    for (size_t i = 0; i < logits.size(); ++i)
      candidates_[i] = {logits[i], static_cast<int32_t>(i)};
  }
  for (Candidate& candidate : candidates_) {
    candidate.value = std::exp((candidate.value - logits[largest]) / params.temperature);
  }
  if (params.top_p < 1) KeepNucleus(params.top_p, has_top_k);
  if (params.min_p > 0) {
    std::erase_if(candidates_, [&](const Candidate& c) { return c.value < params.min_p; });
  }
  return Draw(uniform);
}

// The logits after bias and penalties: a copy if there are any, for only a few tokens change.
std::span<const float> Sampler::Edit(std::span<const float> logits, const SamplingParams& params,
                                     const TokenHistory& history) {
  if (params.logit_bias.empty() && history.output_counts().empty()) return logits;
  edited_.assign(logits.begin(), logits.end());
  for (const auto& [token, bias] : params.logit_bias) edited_[static_cast<size_t>(token)] += bias;
  for (const auto& [token, count] : history.output_counts()) {
    float& logit = edited_[static_cast<size_t>(token)];
    logit = logit > 0 ? logit / params.repetition_penalty : logit * params.repetition_penalty;
    if (count > 0) {
      logit -= params.presence_penalty;
      logit -= params.frequency_penalty * static_cast<float>(count);
    }
  }
  return edited_;
}

// Fills candidates_ with the largest logits, in order. A heap with the smallest kept logit on top:
// almost every logit of a large vocabulary is turned away by one comparison.
void Sampler::KeepLargest(std::span<const float> logits, size_t count) {
  candidates_.clear();
  for (size_t i = 0; i < logits.size(); ++i) {
    if (candidates_.size() == count) {
      if (!(logits[i] > candidates_.front().value)) continue;
      std::pop_heap(candidates_.begin(), candidates_.end(), Before);
      candidates_.pop_back();
    }
    candidates_.push_back({logits[i], static_cast<int32_t>(i)});
    std::push_heap(candidates_.begin(), candidates_.end(), Before);
  }
  std::sort_heap(candidates_.begin(), candidates_.end(), Before);
}

// Keeps the smallest set of candidates whose weight reaches top_p of the whole.
void Sampler::KeepNucleus(double top_p, bool sorted) {
  double total = 0;
  for (const Candidate& candidate : candidates_) total += candidate.value;
  if (!sorted) {
    // Candidates below this weigh less than 1 - top_p all together: none of them is needed, and
    // few are left to sort.
    const double floor = (1 - top_p) * total / static_cast<double>(candidates_.size());
    std::erase_if(candidates_, [&](const Candidate& c) { return c.value < floor; });
    std::sort(candidates_.begin(), candidates_.end(), Before);
  }
  double reached = 0;
  size_t count = 0;
  while (count < candidates_.size() && (count == 0 || reached < top_p * total)) {
    reached += candidates_[count++].value;
  }
  candidates_.resize(count);
}

int32_t Sampler::Draw(double uniform) const {
  double total = 0;
  for (const Candidate& candidate : candidates_) total += candidate.value;
  const double target = uniform * total;
  double reached = 0;
  int32_t last = -1;  // rounding may leave `reached` just under the target at the end
  for (const Candidate& candidate : candidates_) {
    if (candidate.value == 0) continue;
    last = candidate.token;
    reached += candidate.value;
    if (reached > target) break;
  }
  return last;
}

OutputToken Sampler::Describe(std::span<const float> logits, int32_t token, int top) {
  const float largest = logits[LargestLogit(logits)];
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - largest);
  const double log_sum = largest + std::log(sum);
  const auto logprob = [&](float logit) { return static_cast<float>(logit - log_sum); };

  OutputToken output{token, logprob(logits[static_cast<size_t>(token)]), {}};
  if (top > 0) {
    KeepLargest(logits, static_cast<size_t>(top));
    for (const Candidate& c : candidates_) {
      output.top_logprobs.push_back({c.token, logprob(c.value)});
    }
  }
  return output;
}

}  // namespace winnow
