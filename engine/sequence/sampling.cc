#include "engine/sequence/sampling.h"

#include <algorithm>

#include "absl/status/status.h"

namespace winnow {
namespace {

// The finalizer of SplitMix64: every bit of the input moves every bit of the output.
uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
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
  for (const auto& [token, bias] : params.logit_bias) EditOf(token).bias += bias;
  if (params.repetition_penalty == 1) return;
  for (const int32_t token : prompt) EditOf(token).count = 0;
}

LogitEdit& TokenHistory::EditOf(int32_t token) {
  const auto [place, is_new] = places_.try_emplace(token, edits_.size());
  if (is_new) edits_.push_back({.token = token});
  return edits_[place->second];
}

void TokenHistory::Append(int32_t token) {
  if (!counts_output_) return;
  int32_t& count = EditOf(token).count;
  count = std::max(count, 0) + 1;
}

TokenChoice MakeChoice(int row, const SamplingParams& params, const TokenHistory& history,
                       double uniform) {
  return {.row = row,
          .edits = history.edits(),
          .repetition_penalty = params.repetition_penalty,
          .presence_penalty = params.presence_penalty,
          .frequency_penalty = params.frequency_penalty,
          .temperature = params.temperature,
          .top_k = params.top_k,
          .top_p = params.top_p,
          .min_p = params.min_p,
          .uniform = uniform};
}

absl::Status NoChoice(int32_t choice) {
  if (choice == kNoTokenLeft) {
    return absl::InvalidArgumentError("logit_bias leaves no token that can be chosen");
  }
  return absl::InternalError("the model returned logits that are not finite numbers");
}

}  // namespace winnow
