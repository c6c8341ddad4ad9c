#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/request.h"

namespace winnow {

/// A number in [0, 1) made of nothing but its arguments, so that a token's draw depends neither on
/// what else is in the batch nor on how often the sequence was preempted. `index` is the
/// continuation's, `position` counts its generated tokens.
double UniformAt(uint64_t seed, int index, int position);

/// INTERNAL: the model returned NaN or +inf.
absl::Status LogitsNotFinite();

/// What the penalties need to know of a sequence: which tokens it has seen, and how often in its
/// output. Empty if the parameters ask for no penalty.
class TokenHistory {
 public:
  TokenHistory(const SamplingParams& params, std::span<const int32_t> prompt);

  /// Counts a generated token.
  void Append(int32_t token);

  /// Occurrences in the output by token; 0 for tokens that only the prompt has.
  const std::unordered_map<int32_t, int>& output_counts() const { return output_counts_; }

 private:
  bool counts_output_;
  std::unordered_map<int32_t, int> output_counts_;
};

/// Chooses tokens. Holds nothing but scratch memory between calls.
class Sampler {
 public:
  /// Applies `params` to the logits ([vocab]) in the order of its fields and chooses a token.
  /// `uniform` in [0, 1) decides; greedy choices ignore it. INTERNAL when a logit is NaN or +inf,
  /// INVALID_ARGUMENT when no token is left to choose.
  absl::StatusOr<int32_t> Choose(std::span<const float> logits, const SamplingParams& params,
                                 const TokenHistory& history, double uniform);

  /// The chosen token with its log-probability and the `top` most probable tokens with theirs
  /// (lowest id first among equals), from the unmodified logits ([vocab]; none NaN or +inf).
  OutputToken Describe(std::span<const float> logits, int32_t token, int top);

 private:
  struct Candidate {
    float value;  ///< logit, later weight relative to the most probable token's
    int32_t token;
  };
  static bool Before(const Candidate& a, const Candidate& b);

  std::span<const float> Edit(std::span<const float> logits, const SamplingParams& params,
                              const TokenHistory& history);
  void KeepLargest(std::span<const float> logits, size_t count);
  void KeepNucleus(double top_p, bool sorted);
  int32_t Draw(double uniform) const;

  std::vector<float> edited_;
  std::vector<Candidate> candidates_;
};

}  // namespace winnow
