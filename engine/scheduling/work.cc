#include "engine/scheduling/work.h"

#include "engine/sequence/sequence.h"

namespace winnow {

Work& Work::operator+=(const Work& other) {
  steps += other.steps;
  prompt_tokens += other.prompt_tokens;
  prompt_context += other.prompt_context;
  decode_tokens += other.decode_tokens;
  decode_context += other.decode_context;
  return *this;
}

Work Work::operator*(double factor) const {
  return {.steps = steps * factor,
          .prompt_tokens = prompt_tokens * factor,
          .prompt_context = prompt_context * factor,
          .decode_tokens = decode_tokens * factor,
          .decode_context = decode_context * factor};
}

double ContextOf(double begin, double end) { return (end - begin) * (begin + end + 1) / 2; }

StepWork::StepWork(std::span<const Span> spans) {
  for (const Span& span : spans) {
    const double rows = span.rows();
    const double context = ContextOf(span.begin, span.end());
    if (span.decode) {
      all += {.decode_tokens = rows, .decode_context = context};
    } else {
      const Work prompt = {.prompt_tokens = rows, .prompt_context = context};
      prompts[span.sequence->priority()] += prompt;
      all += prompt;
    }
  }
}

}  // namespace winnow
