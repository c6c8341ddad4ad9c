#include "engine/eval/choice.h"

#include <algorithm>
#include <utility>

#include "engine/eval/prediction.h"

namespace winnow {
namespace {

// Tokens of a prompt before those that go through the decode path.
int DenseTokens(const ChoiceCase& question, const ChoiceOptions& options) {
  return std::max(0, static_cast<int>(question.prompt.size()) - options.sparse_tail);
}

// Scores one case's choices through one policy at a time.
class CaseScorer {
 public:
  CaseScorer(ForwardPass& model, SequenceRunner& runner, const ChoiceCase& question, int dense)
      : model_(model), runner_(runner), question_(question), dense_(dense) {}

  // The rows that are the same for all policies.
  absl::Status ComputeDense() {
    const absl::Status status = runner_.Compute(
        {.tokens = std::span(question_.prompt).first(static_cast<size_t>(dense_)),
         .logits_from = last_prompt_row(),
         .visit = [&](int, std::span<const float> logits) { first_ = FirstTokens(logits); }});
    first_of_dense_ = first_;  // if all of the prompt is dense
    return status;
  }

  // [choices]; adds to `traffic` what the rows read.
  absl::StatusOr<std::vector<double>> LogLikelihoods(const Selection& selection,
                                                     KvTraffic* traffic) {
    first_ = first_of_dense_;
    absl::Status status = runner_.Compute(
        {.tokens = question_.prompt,
         .begin = dense_,
         .selection = selection,
         .logits_from = last_prompt_row(),
         .visit = [&](int, std::span<const float> logits) { first_ = FirstTokens(logits); }});
    if (!status.ok()) return status;
    AddTraffic(selection, dense_, prompt_tokens(), traffic);

    std::vector<double> sums = first_;
    for (size_t i = 0; i < sums.size(); ++i) {
      const std::vector<int32_t>& choice = question_.choices[i];
      std::vector<int32_t> tokens = question_.prompt;
      tokens.insert(tokens.end(), choice.begin(), choice.end() - 1);
      const auto add = [&](int position, std::span<const float> logits) {
        const auto next = static_cast<size_t>(position - prompt_tokens() + 1);
        sums[i] -= NegativeLogLikelihood(logits, choice[next]);
      };
      status = runner_.Compute({.tokens = tokens,
                                .begin = prompt_tokens(),
                                .selection = selection,
                                .logits_from = prompt_tokens(),
                                .visit = add});
      if (!status.ok()) return status;
      AddTraffic(selection, prompt_tokens(), static_cast<int>(tokens.size()), traffic);
    }
    return sums;
  }

 private:
  int prompt_tokens() const { return static_cast<int>(question_.prompt.size()); }
  int last_prompt_row() const { return prompt_tokens() - 1; }

  // Log-likelihoods of the choices' first tokens.
  std::vector<double> FirstTokens(std::span<const float> logits) const {
    std::vector<double> values;
    for (const std::vector<int32_t>& choice : question_.choices) {
      values.push_back(-NegativeLogLikelihood(logits, choice[0]));
    }
    return values;
  }

  void AddTraffic(const Selection& selection, int begin, int end, KvTraffic* traffic) const {
    for (int position = begin; position < end; ++position) {
      *traffic += model_.Traffic(selection, position + 1);
    }
  }

  ForwardPass& model_;
  SequenceRunner& runner_;
  const ChoiceCase& question_;
  const int dense_;
  std::vector<double> first_;
  std::vector<double> first_of_dense_;
};

int IndexOfLargest(std::span<const double> values) {
  return static_cast<int>(std::ranges::max_element(values) - values.begin());
}

}  // namespace

int64_t ChoiceRows(std::span<const ChoiceCase> cases, const ChoiceOptions& options, int policies) {
  int64_t rows = 0;
  for (const ChoiceCase& question : cases) {
    const int dense = DenseTokens(question, options);
    int64_t sparse = static_cast<int>(question.prompt.size()) - dense;
    for (const std::vector<int32_t>& choice : question.choices) {
      sparse += static_cast<int>(choice.size()) - 1;
    }
    rows += dense + policies * sparse;
  }
  return rows;
}

int LongestCase(std::span<const ChoiceCase> cases) {
  size_t longest = 0;
  for (const ChoiceCase& question : cases) {
    for (const std::vector<int32_t>& choice : question.choices) {
      longest = std::max(longest, question.prompt.size() + choice.size());
    }
  }
  return static_cast<int>(longest);
}

absl::StatusOr<std::vector<ChoiceResult>> EvalChoice(ForwardPass& model,
                                                     std::span<const ChoiceCase> cases,
                                                     std::span<const AttentionPolicy> policies,
                                                     const ChoiceOptions& options,
                                                     const RowsObserver& observer) {
  SequenceRunner runner(model, FirstBlocks(LongestCase(cases), options.block_tokens),
                        options.step_rows);
  runner.set_observer(observer);
  std::vector<ChoiceResult> results;
  for (const AttentionPolicy& policy : policies) results.push_back({.policy = policy});

  for (const ChoiceCase& question : cases) {
    CaseScorer scorer(model, runner, question, DenseTokens(question, options));
    if (absl::Status status = scorer.ComputeDense(); !status.ok()) return status;
    for (ChoiceResult& result : results) {
      absl::StatusOr<std::vector<double>> sums =
          scorer.LogLikelihoods(SelectionOf(result.policy), &result.traffic);
      if (!sums.ok()) return sums.status();
      std::vector<double> by_length = *sums;
      for (size_t i = 0; i < by_length.size(); ++i) by_length[i] /= question.characters[i];
      result.chosen.push_back(IndexOfLargest(*sums));
      if (result.chosen.back() == question.answer) ++result.correct;
      if (IndexOfLargest(by_length) == question.answer) ++result.correct_by_length;
      result.log_likelihoods.push_back(*std::move(sums));
    }
  }
  return results;
}

}  // namespace winnow
