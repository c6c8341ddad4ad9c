#include "engine/eval/retrieval.h"

#include <algorithm>
#include <utility>

namespace winnow {
namespace {

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

// Whether a number has begun and ended in `text`.
bool HoldsWholeNumber(std::string_view text) {
  const auto first = std::ranges::find_if(text, IsDigit);
  return std::find_if_not(first, text.end(), IsDigit) != text.end();
}

}  // namespace

std::optional<int64_t> FirstNumber(std::string_view text) {
  constexpr int64_t kMaxDigits = 18;
  const auto first = std::ranges::find_if(text, IsDigit);
  const auto last = std::find_if_not(first, text.end(), IsDigit);
  if (first == last || last - first > kMaxDigits) return std::nullopt;
  int64_t number = 0;
  for (auto digit = first; digit != last; ++digit) number = number * 10 + (*digit - '0');
  return number;
}

absl::StatusOr<std::vector<RetrievalResult>> EvalRetrieval(
    ForwardPass& model, const Tokenizer& tokenizer, const RetrievalCases& cases,
    std::span<const AttentionPolicy> policies, const AnswerOptions& options,
    const RowsObserver& observer) {
  absl::StatusOr<std::vector<PolicyAnswers>> answered =
      AnswerPrompts(model, tokenizer, cases, policies, options, HoldsWholeNumber, observer);
  if (!answered.ok()) return answered.status();
  std::vector<RetrievalResult> results;
  for (PolicyAnswers& answers : *answered) {
    RetrievalResult result = {std::move(answers)};
    for (size_t i = 0; i < result.answers.size(); ++i) {
      if (FirstNumber(result.answers[i]) == cases.expected_numbers[i]) ++result.correct;
    }
    results.push_back(std::move(result));
  }
  return results;
}

}  // namespace winnow
