#include "engine/eval/perplexity.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace winnow {
namespace {

// One probe for every position from `begin` on, which take turns through all heads.
std::vector<RecallProbe> ProbeEveryRow(int begin, int end, const AttentionShape& shape) {
  const int heads = shape.layers * shape.kv_heads;
  std::vector<RecallProbe> probes;
  for (int position = begin; position < end; ++position) {
    const int head = position % heads;
    probes.push_back(
        {.row = position, .layer = head / shape.kv_heads, .kv_head = head % shape.kv_heads});
  }
  return probes;
}

bool IsDense(const AttentionPolicy& policy) { return policy.kind == SelectionKind::kAll; }

size_t Likeliest(std::span<const float> logits) {
  return static_cast<size_t>(std::ranges::max_element(logits) - logits.begin());
}

// What dense attention predicts in a window's second half, row by row.
class DensePredictions {
 public:
  void Clear() {
    logits_.clear();
    losses_.clear();
  }
  void Add(std::span<const float> logits, double loss) {
    logits_.insert(logits_.end(), logits.begin(), logits.end());
    losses_.push_back(loss);
  }
  // Adds what a policy predicts in the row that was added `row`-th.
  void Compare(size_t row, std::span<const float> logits, double loss,
               DenseComparison* comparison) const {
    const auto dense = std::span(logits_).subspan(row * logits.size(), logits.size());
    comparison->loss.Add(loss - losses_[row]);
    comparison->divergence.Add(Divergence(dense, logits));
    comparison->agreement.Add(Likeliest(dense) == Likeliest(logits) ? 1 : 0);
  }

 private:
  std::vector<float> logits_;  // [rows, vocab]
  std::vector<double> losses_;
};

// Predicts one window after another. Results hold sums until Finish.
class WindowScorer {
 public:
  WindowScorer(ForwardPass& model, std::span<const AttentionPolicy> policies,
               const PerplexityOptions& options, const RowsObserver& observer)
      : model_(model),
        runner_(model, FirstBlocks(options.context, options.block_tokens), options.step_rows),
        context_(options.context),
        half_(options.context / 2),
        probes_(ProbeEveryRow(half_, context_, model.attention_shape())) {
    runner_.set_observer(observer);
    for (const AttentionPolicy& policy : policies) {
      PerplexityResult& result = results_.emplace_back();
      result.policy = policy;
      result.recall = 0;
    }
    const auto dense = std::ranges::find_if(policies, IsDense);
    if (dense == policies.end()) return;
    dense_ = &results_[static_cast<size_t>(dense - policies.begin())];
    for (PerplexityResult& result : results_) {
      if (!IsDense(result.policy)) result.from_dense.emplace();
    }
  }

  absl::Status Score(std::span<const int32_t> window) {
    const absl::Status status =
        runner_.Compute({.tokens = window.first(static_cast<size_t>(half_)),
                         .logits_from = half_ - 1,
                         .visit = [&](int, std::span<const float> logits) {
                           first_logits_.assign(logits.begin(), logits.end());
                         }});
    if (!status.ok()) return status;
    predictions_.Clear();
    if (dense_ != nullptr) {
      if (absl::Status scored = ScoreHalf(window, dense_); !scored.ok()) return scored;
    }
    for (PerplexityResult& result : results_) {
      if (&result == dense_) continue;
      if (absl::Status scored = ScoreHalf(window, &result); !scored.ok()) return scored;
    }
    return absl::OkStatus();
  }

  std::vector<PerplexityResult> Finish() && {
    for (PerplexityResult& result : results_) {
      const auto tokens = static_cast<double>(result.tokens);
      result.loss /= tokens;
      result.perplexity = std::exp(result.loss);
      result.recall /= tokens;
      result.estimated /= tokens;
    }
    return std::move(results_);
  }

 private:
  absl::Status ScoreHalf(std::span<const int32_t> window, PerplexityResult* result) {
    const Selection selection = SelectionOf(result->policy);
    std::vector<ProbedMass> probed(probes_.size());
    const auto visit = [&](int row, std::span<const float> logits) {
      if (row + 1 == context_) return;
      const double loss = NegativeLogLikelihood(logits, window[static_cast<size_t>(row) + 1]);
      result->loss += loss;
      if (result->from_dense) {
        predictions_.Compare(static_cast<size_t>(row + 1 - half_), logits, loss,
                             &*result->from_dense);
      } else if (result == dense_ && results_.size() > 1) {
        predictions_.Add(logits, loss);
      }
    };
    visit(half_ - 1, first_logits_);
    const absl::Status status = runner_.Compute(
        {.tokens = window,
         .begin = half_,
         .selection = selection,
         .logits_from = half_,
         .visit = visit,
         .probes = IsDense(result->policy) ? std::span<const RecallProbe>() : std::span(probes_),
         .probed = probed});
    if (!status.ok()) return status;
    result->tokens += context_ - half_;
    for (const ProbedMass& mass : probed) {
      result->recall += mass.recall;
      result->estimated += mass.estimated;
    }
    for (int row = half_; row < context_; ++row) {
      result->traffic += model_.Traffic(selection, row + 1);
    }
    return absl::OkStatus();
  }

  ForwardPass& model_;
  SequenceRunner runner_;
  const int context_;
  const int half_;
  const std::vector<RecallProbe> probes_;
  std::vector<PerplexityResult> results_;
  PerplexityResult* dense_ = nullptr;  // of results_, if it is there
  std::vector<float> first_logits_;    // of the window's first half: its last row
  DensePredictions predictions_;       // of the window
};

}  // namespace

int64_t PerplexityRows(const PerplexityOptions& options, int policies) {
  const int half = options.context / 2;
  return int64_t{options.windows} * (half + int64_t{policies} * (options.context - half));
}

absl::StatusOr<std::vector<PerplexityResult>> EvalPerplexity(
    ForwardPass& model, std::span<const int32_t> text, std::span<const AttentionPolicy> policies,
    const PerplexityOptions& options, const RowsObserver& observer) {
  WindowScorer scorer(model, policies, options, observer);
  const auto context = static_cast<size_t>(options.context);
  for (size_t w = 0; w < static_cast<size_t>(options.windows); ++w) {
    if (absl::Status status = scorer.Score(text.subspan(w * context, context)); !status.ok()) {
      return status;
    }
  }
  return std::move(scorer).Finish();
}

}  // namespace winnow
