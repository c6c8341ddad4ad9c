#include "engine/eval/answers.h"

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <utility>

#include "engine/eval/prediction.h"
#include "kernels/logits.h"

namespace winnow {
namespace {

// Tokens of a prompt before those that go through the decode path.
int DenseTokens(std::span<const int32_t> prompt, const AnswerOptions& options) {
  return std::max(0, static_cast<int>(prompt.size()) - options.sparse_tail);
}

// Answers one prompt through one policy at a time.
class AnswerRunner {
 public:
  // `dense`: tokens of the prompt that are computed densely, for all policies.
  AnswerRunner(ForwardPass& model, SequenceRunner& runner, const std::vector<int32_t>& prompt,
               std::span<const int32_t> expected, int dense)
      : model_(model), runner_(runner), prompt_(prompt), expected_(expected), dense_(dense) {}

  absl::Status ComputeDense() {
    return runner_.Compute({.tokens = std::span(prompt_).first(static_cast<size_t>(dense_)),
                            .logits_from = last_prompt_row(),
                            .visit = [&](int, std::span<const float> logits) {
                              first_ = LargestLogit(logits);
                              if (expected_.empty()) return;
                              first_score_ = -NegativeLogLikelihood(logits, expected_[0]);
                            }});
  }

  absl::Status Generate(const Tokenizer& tokenizer, const Selection& selection, int max_tokens,
                        const std::function<bool(std::string_view answer)>& is_whole,
                        const RowsObserver& observer, PolicyAnswers* result) {
    std::vector<int32_t> tokens = prompt_;
    std::string answer;
    int32_t next = first_;  // the token that the latest row predicts
    int begin = dense_;
    int generated = 0;
    while (true) {
      const absl::Status status = runner_.Compute(
          {.tokens = tokens,
           .begin = begin,
           .selection = selection,
           .logits_from = static_cast<int>(tokens.size()) - 1,
           .visit = [&](int, std::span<const float> logits) { next = LargestLogit(logits); }});
      if (!status.ok()) return status;
      for (; begin < static_cast<int>(tokens.size()); ++begin) {
        result->traffic += model_.Traffic(selection, begin + 1);
      }
      if (tokenizer.IsEndOfGeneration(next)) break;
      answer += tokenizer.TokenBytes(next, /*render_special=*/false);
      if (++generated == max_tokens || (is_whole && is_whole(answer))) break;
      tokens.push_back(next);
    }
    // Rows that a shorter answer has spared.
    const int computed = static_cast<int>(tokens.size() - prompt_.size());
    if (observer && computed < max_tokens - 1) observer(max_tokens - 1 - computed);
    result->answers.push_back(std::move(answer));
    return absl::OkStatus();
  }

  // The log-likelihood of the expected answer.
  absl::StatusOr<double> Score(const Selection& selection) {
    std::vector<int32_t> tokens = prompt_;
    tokens.insert(tokens.end(), expected_.begin(), expected_.end() - 1);
    double sum = dense_ > last_prompt_row() ? first_score_ : 0;
    const absl::Status status =
        runner_.Compute({.tokens = tokens,
                         .begin = dense_,
                         .selection = selection,
                         .logits_from = last_prompt_row(),
                         .visit = [&](int position, std::span<const float> logits) {
                           const auto next = static_cast<size_t>(position - last_prompt_row());
                           sum -= NegativeLogLikelihood(logits, expected_[next]);
                         }});
    if (!status.ok()) return status;
    return sum;
  }

 private:
  int last_prompt_row() const { return static_cast<int>(prompt_.size()) - 1; }

  ForwardPass& model_;
  SequenceRunner& runner_;
  const std::vector<int32_t>& prompt_;
  const std::span<const int32_t> expected_;
  const int dense_;
  int32_t first_ = 0;       // the answer's first token, if all of the prompt is dense
  double first_score_ = 0;  // then also the log-likelihood of the expected one
};

}  // namespace

void DropMiddle(int tokens, std::vector<int32_t>* prompt) {
  const auto kept = static_cast<std::ptrdiff_t>(tokens);
  if (std::ssize(*prompt) <= kept) return;
  const auto begin = prompt->begin() + (kept + 1) / 2;
  prompt->erase(begin, prompt->end() - kept / 2);
}

int LongestQuestion(const Questions& questions, const AnswerOptions& options) {
  size_t longest = 0;
  for (size_t i = 0; i < questions.prompts.size(); ++i) {
    auto answer = static_cast<size_t>(options.max_tokens);
    if (!questions.expected.empty()) answer = std::max(answer, questions.expected[i].size());
    longest = std::max(longest, questions.prompts[i].size() + answer);
  }
  return static_cast<int>(longest);
}

int64_t AnswerRows(const Questions& questions, const AnswerOptions& options, int policies) {
  int64_t rows = 0;
  for (size_t i = 0; i < questions.prompts.size(); ++i) {
    const int dense = DenseTokens(questions.prompts[i], options);
    const int tail = static_cast<int>(questions.prompts[i].size()) - dense;
    rows += dense + int64_t{policies} * (tail + options.max_tokens - 1);
    if (questions.expected.empty()) continue;
    rows += policies * (tail + std::ssize(questions.expected[i]) - 1);
  }
  return rows;
}

absl::StatusOr<std::vector<PolicyAnswers>> AnswerPrompts(
    ForwardPass& model, const Tokenizer& tokenizer, const Questions& questions,
    std::span<const AttentionPolicy> policies, const AnswerOptions& options,
    const std::function<bool(std::string_view answer)>& is_whole, const RowsObserver& observer) {
  SequenceRunner runner(model,
                        FirstBlocks(LongestQuestion(questions, options), options.block_tokens),
                        options.step_rows);
  runner.set_observer(observer);
  std::vector<PolicyAnswers> results;
  for (const AttentionPolicy& policy : policies) results.push_back({.policy = policy});

  for (size_t i = 0; i < questions.prompts.size(); ++i) {
    const std::vector<int32_t>& prompt = questions.prompts[i];
    const std::span<const int32_t> expected =
        questions.expected.empty() ? std::span<const int32_t>() : questions.expected[i];
    AnswerRunner answer(model, runner, prompt, expected, DenseTokens(prompt, options));
    if (absl::Status status = answer.ComputeDense(); !status.ok()) return status;
    for (PolicyAnswers& result : results) {
      const Selection selection = SelectionOf(result.policy);
      absl::Status status =
          answer.Generate(tokenizer, selection, options.max_tokens, is_whole, observer, &result);
      if (!status.ok()) return status;
      if (expected.empty()) continue;
      absl::StatusOr<double> score = answer.Score(selection);
      if (!score.ok()) return score.status();
      result.log_likelihoods.push_back(*score);
    }
  }
  return results;
}

}  // namespace winnow
