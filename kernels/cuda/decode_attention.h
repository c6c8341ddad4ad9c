#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/selection.h"

namespace winnow::cuda {

/// Elements of attention's result.
enum class OutType : uint8_t { kF32, kBf16 };

/// Query heads that share a KV head: at most this many.
inline constexpr int kMaxGroup = 8;

/// Numbers of a label: at most this many, here fewer than kMaxLabelWidth.
inline constexpr int kMaxDecodeLabelWidth = 32;

/// KV heads of a model, at most.
inline constexpr int kMaxKvHeads = 128;

/// rows times kv_heads of one call: at most this many.
inline constexpr int kMaxDecodeHeads = 65536;

/// What attention of decoding rows works on. A row is one query token; rows may belong to different
/// sequences of different lengths, and each KV head of each row may be dense or select. Pointers
/// are to device memory unless they say otherwise. A captured graph serves every later step of the
/// same `rows`, `max_context` and `max_selected`: contexts, selections and tables may change
/// between replays.
struct DecodeAttention {
  // The model's layer.
  int kv_heads = 0;
  int group = 1;         ///< query heads of a KV head, 1 to kMaxGroup
  int head_dim = 0;      ///< IsHeadSize
  int block_tokens = 0;  ///< a power of two, at least 16
  float scale = 0;       ///< of q . k
  float soft_cap = 0;    ///< LayerAttention::soft_cap
  /// LayerAttention::sliding_window; where there is one, no head selects.
  int32_t sliding_window = 0;
  const std::byte* kv = nullptr;  ///< KvView::data
  /// KvView::labels, laid out as in label_layout.cuh. Null: no row's kind is kLabels.
  const std::byte* labels = nullptr;
  int label_width = 0;  ///< 4, or a multiple of 8 up to kMaxDecodeLabelWidth
  LabelCodec basis;     ///< only `query` is read
  int32_t sinks = 0;
  int32_t window = 0;
  int32_t min_context = 0;                ///< shorter contexts are dense
  const float* budget_weights = nullptr;  ///< host, [kv_heads], or null: all 1
  /// LayerAttention::tail_weights, host. Null: what is not chosen is left out, and nothing about
  /// summaries is read.
  const float* tail_weights = nullptr;
  const float* summaries = nullptr;  ///< KvView::summaries

  // The step's rows.
  int rows = 0;
  const int32_t* query_rows = nullptr;    ///< [rows] row of `queries` and `out`
  const int32_t* sequences = nullptr;     ///< [rows] row of `block_tables`
  const int32_t* contexts = nullptr;      ///< [rows] tokens up to and including the row's own
  const Selection* selections = nullptr;  ///< [rows]; budgets are BudgetTokens of these
  const int32_t* estimates = nullptr;     ///< [rows] StepArrays::estimates
  const uint16_t* longer = nullptr;       ///< RenewSummaries::longer
  const int32_t* block_tables = nullptr;  ///< [sequences, max_blocks] as StepBatch::block_tables
  int max_blocks = 0;
  int32_t max_context = 0;  ///< no context is longer
  /// Room in the list of a head that selects, for the largest budget; 0: all heads are dense.
  int32_t max_selected = 0;

  bool exact_scores = false;  ///< some row's kind is kScores, which costs one launch more

  /// Rotated queries: query head h of row t begins at queries + t query_stride + h head_dim.
  const float* queries = nullptr;
  int64_t query_stride = 0;
  void* out = nullptr;  ///< the same for the result, elements of out_type
  int64_t out_stride = 0;
  OutType out_type = OutType::kF32;

  /// [rows, kv_heads, max_selected]: what the KV heads that select chose, `budget` entries each, in
  /// the order of positions. An entry e is the token whose key begins at element 2 head_dim e of
  /// `kv`: e = (block kv_heads + kv_head) block_tokens + slot.
  uint32_t* selected = nullptr;
  /// TailFloats, where there are tail_weights: of each query head what it does not choose, as one
  /// more piece of its softmax: {log 2 of its weight, mean value [head_dim]}.
  float* tails = nullptr;
  /// DecodeWorkspaceBytes, all zero before the first use; calls leave it fit for the next one.
  std::byte* workspace = nullptr;
};

/// Bytes of DecodeAttention::workspace on the current device for calls of at most so many rows and
/// such contexts.
int64_t DecodeWorkspaceBytes(int rows, int kv_heads, int head_dim, int max_context);

/// Floats of DecodeAttention::tails for so many rows.
constexpr int64_t TailFloats(int rows, int heads, int head_dim) {
  return int64_t{rows} * heads * (1 + head_dim);
}

/// Queues attention of the rows as of Backend::Attention:
///   out[t, h, :] = sum_j softmax_j(cap(scale q[t, h] . k[j, g])) v[j, g], j in S[t, g],
/// and with tail_weights what is not in S[t, g] as its summary and labels estimate it.
/// One launch if max_selected is 0, else two: choose what to attend to, attend. None allocates or
/// waits, so they can be captured. The kernel queued just before may write all but the rows'
/// contexts, selections, sequences, query_rows and block tables, which are read ahead. Sums run in
/// an order fixed by the device, contexts and budgets: the same call gives the same bits. Returns
/// the first launch error.
cudaError_t LaunchDecodeAttention(const DecodeAttention& call, cudaStream_t stream);

}  // namespace winnow::cuda
