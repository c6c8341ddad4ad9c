#include "engine/eval/retrieval.h"

#include <algorithm>

#include "engine/model/logits.h"

namespace winnow {
namespace {

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

// Whether a number has begun and ended in `text`.
bool HoldsWholeNumber(std::string_view text) {
  const auto first = std::ranges::find_if(text, IsDigit);
  return std::find_if_not(first, text.end(), IsDigit) != text.end();
}

// Tokens of a prompt before those that go through the decode path.
int DenseTokens(const RetrievalCase& question, const RetrievalOptions& options) {
  return std::max(0, static_cast<int>(question.prompt.size()) - options.sparse_tail);
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

int64_t RetrievalRows(std::span<const RetrievalCase> cases, const RetrievalOptions& options,
                      int policies) {
  int64_t rows = 0;
  for (const RetrievalCase& question : cases) {
    const int dense = DenseTokens(question, options);
    const int tail = static_cast<int>(question.prompt.size()) - dense;
    rows += dense + int64_t{policies} * (tail + options.max_tokens - 1);
  }
  return rows;
}

absl::StatusOr<std::vector<RetrievalResult>> EvalRetrieval(
    ForwardPass& model, const Tokenizer& tokenizer, std::span<const RetrievalCase> cases,
    std::span<const AttentionPolicy> policies, const RetrievalOptions& options,
    const RowsObserver& observer) {
  size_t longest = 0;
  for (const RetrievalCase& question : cases) longest = std::max(longest, question.prompt.size());
  SequenceRunner runner(
      model, FirstBlocks(static_cast<int>(longest) + options.max_tokens, options.block_tokens),
      options.step_rows);
  runner.set_observer(observer);
  std::vector<RetrievalResult> results;
  for (const AttentionPolicy& policy : policies) results.push_back({.policy = policy});

  for (const RetrievalCase& question : cases) {
    const int dense = DenseTokens(question, options);
    const int last = static_cast<int>(question.prompt.size()) - 1;
    int32_t next = 0;  // the token that the latest row predicts
    const auto choose = [&](int, std::span<const float> logits) { next = LargestLogit(logits); };
    if (absl::Status status =
            runner.Compute({.tokens = std::span(question.prompt).first(static_cast<size_t>(dense)),
                            .logits_from = last,
                            .visit = choose});
        !status.ok()) {
      return status;
    }
    const int32_t first_of_dense = next;  // if all of the prompt is dense

    for (RetrievalResult& result : results) {
      const Selection selection = SelectionOf(result.policy);
      std::vector<int32_t> tokens = question.prompt;
      std::string answer;
      next = first_of_dense;
      int begin = dense;
      int generated = 0;
      while (true) {
        if (absl::Status status =
                runner.Compute({.tokens = tokens,
                                .begin = begin,
                                .selection = selection,
                                .logits_from = static_cast<int>(tokens.size()) - 1,
                                .visit = choose});
            !status.ok()) {
          return status;
        }
        for (; begin < static_cast<int>(tokens.size()); ++begin) {
          result.traffic += model.Traffic(selection, begin + 1);
        }
        if (tokenizer.IsEndOfGeneration(next)) break;
        answer += tokenizer.TokenBytes(next, /*render_special=*/false);
        if (++generated == options.max_tokens || HoldsWholeNumber(answer)) break;
        tokens.push_back(next);
      }
      // Rows that a shorter answer has spared.
      const int computed = static_cast<int>(tokens.size() - question.prompt.size());
      if (observer && computed < options.max_tokens - 1) {
        observer(options.max_tokens - 1 - computed);
      }
      ++result.total;
      if (FirstNumber(answer) == question.expected_number) ++result.correct;
      result.answers.push_back(std::move(answer));
    }
  }
  return results;
}

}  // namespace winnow
