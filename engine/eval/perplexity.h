#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/attention/policy.h"
#include "engine/eval/prediction.h"
#include "engine/eval/sequence_runner.h"
#include "engine/model/forward_pass.h"

namespace winnow {

/// How much of a text to score.
struct PerplexityOptions {
  int context = 2048;    ///< tokens of a window, at least 2
  int windows = 1;       ///< consecutive ones from the text's start
  int block_tokens = 0;  ///< of the model's KV pool, which holds at least `context` tokens
  int step_rows = 256;   ///< rows of a step; changes memory and speed, not the result
};

/// How well a model predicts a text through one policy.
struct PerplexityResult {
  AttentionPolicy policy = {};
  double loss = 0;         ///< mean over the scored tokens of -log of their probability
  double perplexity = 0;   ///< exp(loss)
  int64_t tokens = 0;      ///< that were scored
  KvTraffic traffic = {};  ///< of all rows through the decode path
  /// Mean share of the true softmax mass that selections held, sampled once in every row.
  double recall = 1;
  double estimated = 0;  ///< likewise what the estimate of the other tokens had of the attention
  /// Over the scored tokens; none of the dense policy, or where it was not evaluated.
  std::optional<DenseComparison> from_dense;
};

/// Predicts windows text[w context, (w + 1) context) through each policy. The first half of a
/// window is computed densely, once for all policies; every token of the second half goes through
/// the decode path and is scored. Its first token is predicted by the last dense row. With a dense
/// policy among them others are compared with it, for which the logits of half a window are kept,
/// context / 2 * vocab floats.
/// REQUIRES: `text` holds options.windows * options.context tokens. An error means that the device
/// failed.
absl::StatusOr<std::vector<PerplexityResult>> EvalPerplexity(
    ForwardPass& model, std::span<const int32_t> text, std::span<const AttentionPolicy> policies,
    const PerplexityOptions& options, const RowsObserver& observer = {});

/// Rows that EvalPerplexity computes, for a progress bar.
int64_t PerplexityRows(const PerplexityOptions& options, int policies);

}  // namespace winnow
