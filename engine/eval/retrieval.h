#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/eval/answers.h"

namespace winnow {

/// Questions about a number that stands somewhere in the prompt.
struct RetrievalCases : Questions {
  std::vector<int64_t> expected_numbers = {};  ///< [prompts]
};

/// What a policy answered, and how often that was right.
struct RetrievalResult : PolicyAnswers {
  int correct = 0;
};

/// Answers every case through every policy, greedily, up to the end of the first number. An answer
/// is correct if that is the expected one. AnswerRows tells of how many rows the observer hears.
/// An error means that the device failed.
absl::StatusOr<std::vector<RetrievalResult>> EvalRetrieval(
    ForwardPass& model, const Tokenizer& tokenizer, const RetrievalCases& cases,
    std::span<const AttentionPolicy> policies, const AnswerOptions& options,
    const RowsObserver& observer = {});

/// The number that the first digits of `text` spell, none if there are no digits or more than 18.
std::optional<int64_t> FirstNumber(std::string_view text);

}  // namespace winnow
