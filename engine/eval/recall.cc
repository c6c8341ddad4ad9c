#include "engine/eval/recall.h"

#include <algorithm>
#include <numeric>

namespace winnow {
namespace {

// The options' rows in every KV head, ordered by row, layer and head.
std::vector<RecallProbe> ProbeAllHeads(const RecallEvalOptions& options,
                                       const AttentionShape& shape) {
  const int half = options.context / 2;
  const int64_t rows = options.context - half;
  const int64_t samples = std::min<int64_t>(options.sampled_rows, rows);
  std::vector<RecallProbe> probes;
  for (int64_t i = 0; i < samples; ++i) {
    // The middle of the i-th of equal parts.
    const auto row = half + static_cast<int>((2 * i + 1) * rows / (2 * samples));
    for (int l = 0; l < shape.layers; ++l) {
      for (int g = 0; g < shape.kv_heads; ++g) probes.push_back({row, l, g});
    }
  }
  return probes;
}

}  // namespace

double MeanRecall(std::span<const double> recalls) {
  return std::accumulate(recalls.begin(), recalls.end(), 0.0) / static_cast<double>(recalls.size());
}

int64_t RecallRows(const RecallEvalOptions& options, int policies) {
  const int half = options.context / 2;
  return int64_t{options.windows} * (half + int64_t{policies} * (options.context - half));
}

absl::StatusOr<std::vector<RecallResult>> EvalRecall(ForwardPass& model,
                                                     std::span<const int32_t> text,
                                                     std::span<const AttentionPolicy> policies,
                                                     const RecallEvalOptions& options,
                                                     const RowsObserver& observer) {
  const int half = options.context / 2;
  const AttentionShape shape = model.attention_shape();
  const auto heads = static_cast<size_t>(shape.layers * shape.kv_heads);
  SequenceRunner runner(model, FirstBlocks(options.context, options.block_tokens),
                        options.step_rows);
  runner.set_observer(observer);
  const std::vector<RecallProbe> probes = ProbeAllHeads(options, shape);
  std::vector<RecallResult> results;
  for (const AttentionPolicy& policy : policies) {
    results.push_back({policy, std::vector<double>(heads), shape.kv_heads});
  }

  for (int w = 0; w < options.windows; ++w) {
    const auto window = text.subspan(static_cast<size_t>(w) * static_cast<size_t>(options.context),
                                     static_cast<size_t>(options.context));
    if (absl::Status status = runner.Compute({.tokens = window.first(static_cast<size_t>(half))});
        !status.ok()) {
      return status;
    }
    for (RecallResult& result : results) {
      const Selection selection = SelectionOf(result.policy);
      std::vector<ProbedMass> probed(probes.size());
      if (absl::Status status = runner.Compute({.tokens = window,
                                                .begin = half,
                                                .selection = selection,
                                                .probes = probes,
                                                .probed = probed});
          !status.ok()) {
        return status;
      }
      for (size_t i = 0; i < probed.size(); ++i) result.recall[i % heads] += probed[i].recall;
      for (int position = half; position < options.context; ++position) {
        result.traffic += model.Traffic(selection, position + 1);
      }
    }
  }
  const double samples =
      static_cast<double>(probes.size()) / static_cast<double>(heads) * options.windows;
  for (RecallResult& result : results) {
    for (double& recall : result.recall) recall /= samples;
  }
  return results;
}

}  // namespace winnow
