#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/attention/policy.h"
#include "engine/eval/sequence_runner.h"
#include "engine/model/forward_pass.h"

namespace winnow {

/// Where recall is measured.
struct RecallEvalOptions {
  int context = 2048;     ///< tokens of a window, at least 2
  int windows = 1;        ///< consecutive ones from the text's start
  int sampled_rows = 64;  ///< of the second half of a window, evenly spread; at least 1
  int block_tokens = 0;   ///< of the model's KV pool, which holds at least `context` tokens
  int step_rows = 256;    ///< rows of a step; changes memory and speed, not the result
};

/// What the selections of a policy held, head by head.
struct RecallResult {
  AttentionPolicy policy = {};
  /// [layers, kv_heads] share of the true softmax mass that the selected tokens hold: mean over the
  /// sampled rows and the query heads of the KV head.
  std::vector<double> recall = {};
  int kv_heads = 0;
  KvTraffic traffic = {};  ///< of all rows through the decode path

  int layers() const { return static_cast<int>(recall.size()) / kv_heads; }
  /// [kv_heads] of one layer.
  std::span<const double> layer(int l) const {
    return std::span(recall).subspan(static_cast<size_t>(l * kv_heads),
                                     static_cast<size_t>(kv_heads));
  }
};

/// Measures the recall of every KV head in sampled rows of the second halves of windows
/// text[w context, (w + 1) context). As in EvalPerplexity the first halves are computed densely,
/// and all rows of the second ones go through each policy. REQUIRES: `text` holds options.windows *
/// options.context tokens. An error means that the device failed.
absl::StatusOr<std::vector<RecallResult>> EvalRecall(ForwardPass& model,
                                                     std::span<const int32_t> text,
                                                     std::span<const AttentionPolicy> policies,
                                                     const RecallEvalOptions& options,
                                                     const RowsObserver& observer = {});

/// Rows that EvalRecall computes, for a progress bar.
int64_t RecallRows(const RecallEvalOptions& options, int policies);

/// Mean of some heads' recalls.
double MeanRecall(std::span<const double> recalls);

}  // namespace winnow
