#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/selection.h"

namespace winnow {

/// One attention operator of a decode step.
struct AttentionBenchOptions {
  int batch = 1;       ///< sequences, one row each
  int context = 1024;  ///< tokens of each, its own included
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  int label_width = 16;
  Selection selection;
  bool tail = false;  ///< what is not chosen by labels counts, with weight 1
  int block_tokens = 32;
  double seconds = 2;  ///< how long to measure
};

struct AttentionBenchResult {
  double seconds = 0;  ///< median, of one layer
  int64_t bytes = 0;   ///< keys, values, labels and summaries that the rows of one layer read
  double achieved_bytes_per_second = 0;
};

/// Times Backend::Attention on random numbers. Layers follow each other until their keys and values
/// exceed the caches, so that all comes from memory, as it does in a model.
///
/// With a tail, sequences have their summaries, which in one step of kSummaryPiece grow by a piece.
/// What that takes is measured apart, at the first piece of each sequence: it is the same at all.
/// The result has its share, 1 / kSummaryPiece.
///
/// RESOURCE_EXHAUSTED when the pool does not fit; the errors of Backend::CheckAttention.
absl::StatusOr<AttentionBenchResult> BenchAttention(Backend& backend,
                                                    const AttentionBenchOptions& options);

}  // namespace winnow
