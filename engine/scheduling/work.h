#pragma once

#include <array>
#include <cstddef>
#include <map>
#include <span>

#include "engine/sequence/span.h"

namespace winnow {

/// What takes a step its time: the step itself, which reads the weights, its rows, and what the
/// rows attend to. Steps add up, and so does what a request asks for.
struct Work {
  double steps = 0;
  double prompt_tokens = 0;
  double prompt_context = 0;  ///< tokens that these attend to, themselves included, summed
  double decode_tokens = 0;
  double decode_context = 0;

  static constexpr size_t kTerms = 5;
  std::array<double, kTerms> terms() const {
    return {steps, prompt_tokens, prompt_context, decode_tokens, decode_context};
  }
  double rows() const { return prompt_tokens + decode_tokens; }

  Work& operator+=(const Work& other);
  Work operator+(const Work& other) const { return Work(*this) += other; }
  Work operator*(double factor) const;
};

/// Tokens that the rows [begin, end) of a sequence attend to, summed.
double ContextOf(double begin, double end);

/// The work of one step.
struct StepWork {
  explicit StepWork(std::span<const Span> spans);

  Work all = {.steps = 1};
  std::map<int, Work> prompts;  ///< of these, what prompts are, by priority
};

}  // namespace winnow
