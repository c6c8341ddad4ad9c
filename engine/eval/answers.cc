#include "engine/eval/answers.h"

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <utility>

#include "kernels/logits.h"

namespace winnow {
namespace {

// Tokens of a prompt before those that go through the decode path.
int DenseTokens(std::span<const int32_t> prompt, const AnswerOptions& options) {
  return std::max(0, static_cast<int>(prompt.size()) - options.sparse_tail);
}

}  // namespace

void DropMiddle(int tokens, std::vector<int32_t>* prompt) {
  const auto kept = static_cast<std::ptrdiff_t>(tokens);
  if (std::ssize(*prompt) <= kept) return;
  const auto begin = prompt->begin() + (kept + 1) / 2;
  prompt->erase(begin, prompt->end() - kept / 2);
}

int LongestPrompt(std::span<const std::vector<int32_t>> prompts) {
  size_t longest = 0;
  for (const std::vector<int32_t>& prompt : prompts) longest = std::max(longest, prompt.size());
  return static_cast<int>(longest);
}

int64_t AnswerRows(std::span<const std::vector<int32_t>> prompts, const AnswerOptions& options,
                   int policies) {
  int64_t rows = 0;
  for (const std::vector<int32_t>& prompt : prompts) {
    const int dense = DenseTokens(prompt, options);
    const int tail = static_cast<int>(prompt.size()) - dense;
    rows += dense + int64_t{policies} * (tail + options.max_tokens - 1);
  }
  return rows;
}

absl::StatusOr<std::vector<PolicyAnswers>> AnswerPrompts(
    ForwardPass& model, const Tokenizer& tokenizer, std::span<const std::vector<int32_t>> prompts,
    std::span<const AttentionPolicy> policies, const AnswerOptions& options,
    const std::function<bool(std::string_view answer)>& is_whole, const RowsObserver& observer) {
  SequenceRunner runner(
      model, FirstBlocks(LongestPrompt(prompts) + options.max_tokens, options.block_tokens),
      options.step_rows);
  runner.set_observer(observer);
  std::vector<PolicyAnswers> results;
  for (const AttentionPolicy& policy : policies) results.push_back({.policy = policy});

  for (const std::vector<int32_t>& prompt : prompts) {
    const int dense = DenseTokens(prompt, options);
    int32_t next = 0;  // the token that the latest row predicts
    const auto choose = [&](int, std::span<const float> logits) { next = LargestLogit(logits); };
    if (absl::Status status =
            runner.Compute({.tokens = std::span(prompt).first(static_cast<size_t>(dense)),
                            .logits_from = static_cast<int>(prompt.size()) - 1,
                            .visit = choose});
        !status.ok()) {
      return status;
    }
    const int32_t first_of_dense = next;  // if all of the prompt is dense

    for (PolicyAnswers& result : results) {
      const Selection selection = SelectionOf(result.policy);
      std::vector<int32_t> tokens = prompt;
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
        if (++generated == options.max_tokens || (is_whole && is_whole(answer))) break;
        tokens.push_back(next);
      }
      // Rows that a shorter answer has spared.
      const int computed = static_cast<int>(tokens.size() - prompt.size());
      if (observer && computed < options.max_tokens - 1) {
        observer(options.max_tokens - 1 - computed);
      }
      result.answers.push_back(std::move(answer));
    }
  }
  return results;
}

}  // namespace winnow
