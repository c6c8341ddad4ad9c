#pragma once

#include <cstdint>
#include <vector>

#include "engine/sequence/sequence.h"

namespace winnow {

/// Guesses the tokens to come of sequences that decode. Guesses decide how many tokens a step
/// yields, never which.
class Drafter {
 public:
  virtual ~Drafter() = default;

  /// What may come after the sequence's tokens, in order; nothing if it has no idea.
  virtual std::vector<int32_t> Draft(const Sequence& sequence) = 0;
};

}  // namespace winnow
