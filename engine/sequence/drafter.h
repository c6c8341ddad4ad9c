#pragma once

#include <cstdint>
#include <vector>

#include "engine/sequence/sequence.h"

namespace winnow {

/// Guesses the tokens to come of sequences that decode. Guesses decide how many tokens a step
/// yields, not which: exactly where rows are invariant (see Backend), else up to ties. A recall
/// floor is the exception: rows of drafts are not probed, and select as before a doubling.
class Drafter {
 public:
  virtual ~Drafter() = default;

  /// What may come after the sequence's tokens, in order; nothing if it has no idea.
  virtual std::vector<int32_t> Draft(const Sequence& sequence) = 0;
};

}  // namespace winnow
