#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/logits.h"
#include "kernels/token_choice.h"

namespace winnow::cpu {

/// Backend::ChooseTokens for one choice at a time. Holds nothing but scratch memory between calls.
class TokenChooser {
 public:
  /// Makes room for choices of tokens of such a vocabulary.
  void Reserve(size_t vocab);

  /// The token that `choice` makes of the row of logits, or why there is none.
  int32_t Choose(std::span<const float> logits, const TokenChoice& choice);

 private:
  std::span<const float> Edit(std::span<const float> logits, const TokenChoice& choice);
  void KeepNucleus(double top_p, bool sorted);
  int32_t Draw(double uniform) const;

  std::vector<float> edited_;
  std::vector<TokenValue> candidates_;  ///< logits, later weights relative to the largest
};

}  // namespace winnow::cpu
