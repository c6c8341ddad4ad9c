#include "engine/eval/perplexity.h"

#include <algorithm>
#include <cmath>

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

}  // namespace

double NegativeLogLikelihood(std::span<const float> logits, int32_t token) {
  const float largest = *std::ranges::max_element(logits);
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - largest);
  return largest + std::log(sum) - logits[static_cast<size_t>(token)];
}

int64_t PerplexityRows(const PerplexityOptions& options, int policies) {
  const int half = options.context / 2;
  return int64_t{options.windows} * (half + int64_t{policies} * (options.context - half));
}

absl::StatusOr<std::vector<PerplexityResult>> EvalPerplexity(
    ForwardPass& model, std::span<const int32_t> text, std::span<const AttentionPolicy> policies,
    const PerplexityOptions& options, const RowsObserver& observer) {
  const int half = options.context / 2;
  SequenceRunner runner(model, FirstBlocks(options.context, options.block_tokens),
                        options.step_rows);
  runner.set_observer(observer);
  const std::vector<RecallProbe> probes =
      ProbeEveryRow(half, options.context, model.attention_shape());
  std::vector<PerplexityResult> results;
  for (const AttentionPolicy& policy : policies) results.push_back({.policy = policy});
  std::vector<double> recall_sums(policies.size());

  for (int w = 0; w < options.windows; ++w) {
    const auto window = text.subspan(static_cast<size_t>(w) * static_cast<size_t>(options.context),
                                     static_cast<size_t>(options.context));
    double loss = 0;
    const auto score = [&](int position, std::span<const float> logits) {
      if (position + 1 == options.context) return;
      loss += NegativeLogLikelihood(logits, window[static_cast<size_t>(position) + 1]);
    };
    if (absl::Status status = runner.Compute({.tokens = window.first(static_cast<size_t>(half)),
                                              .logits_from = half - 1,
                                              .visit = score});
        !status.ok()) {
      return status;
    }
    const double first_loss = loss;
    for (size_t p = 0; p < policies.size(); ++p) {
      PerplexityResult& result = results[p];
      const Selection selection = SelectionOf(policies[p]);
      const bool dense = selection.kind == SelectionKind::kAll;
      std::vector<float> recalls(probes.size(), 1.0f);
      loss = first_loss;
      const absl::Status status =
          runner.Compute({.tokens = window,
                          .begin = half,
                          .selection = selection,
                          .logits_from = half,
                          .visit = score,
                          .probes = dense ? std::span<const RecallProbe>() : probes,
                          .recalls = recalls});
      if (!status.ok()) return status;
      result.loss += loss;
      result.tokens += options.context - half;
      for (const float recall : recalls) recall_sums[p] += recall;
      for (int position = half; position < options.context; ++position) {
        result.traffic += model.Traffic(selection, position + 1);
      }
    }
  }
  for (size_t p = 0; p < results.size(); ++p) {
    const auto tokens = static_cast<double>(results[p].tokens);
    results[p].loss /= tokens;
    results[p].perplexity = std::exp(results[p].loss);
    results[p].recall = recall_sums[p] / tokens;
  }
  return results;
}

}  // namespace winnow
