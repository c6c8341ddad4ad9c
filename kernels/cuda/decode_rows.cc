#include "kernels/cuda/decode_rows.h"

#include <algorithm>

#include "kernels/cuda/decode_kernels.h"
#include "kernels/cuda/recall.h"
#include "kernels/cuda/renew_summaries.h"
#include "kernels/cuda/status.h"

namespace winnow::cuda {
namespace {

// Memory for lists, and for keys of contexts too long for shared memory: calls of several rows take
// no more. Rows of long contexts fill the device with fewer of them.
constexpr int64_t kCallBytes = int64_t{64} << 20;

// Probes that are answered together, and their answers.
constexpr size_t kProbes = 1 << 16;
constexpr int64_t kProbeBytes = kProbes * (sizeof(DecodeProbe) + sizeof(ProbedMass));

int64_t SelectedBytes(int rows, int kv_heads, int max_selected) {
  return int64_t{rows} * kv_heads * max_selected * static_cast<int64_t>(sizeof(uint32_t));
}

int64_t TailBytes(int rows, int heads, int head_dim) {
  return TailFloats(rows, heads, head_dim) * static_cast<int64_t>(sizeof(float));
}

int64_t LongerBytes(int rows, int sequences, const KvShape& kv) {
  return StepArrays::MostLonger(rows, sequences) * kv.kv_heads *
         kv.summary_shape().estimate_bytes();
}

// Whether what a layer's rows do not choose counts at all.
bool HasTail(const KvView& kv, const LayerAttention& attention) {
  const float* const weights = attention.tail_weights;
  return weights != nullptr && kv.summaries != nullptr && attention.soft_cap == 0 &&
         std::any_of(weights, weights + kv.kv_heads, [](float weight) { return weight > 0; });
}

int RowsOfCall(const DecodeAttention& call) {
  int64_t rows = kMaxDecodeHeads / call.kv_heads;
  const int64_t tail_bytes =
      call.tail_weights == nullptr ? 0 : TailBytes(1, call.kv_heads * call.group, call.head_dim);
  for (const int64_t row_bytes :
       {SelectedBytes(1, call.kv_heads, call.max_selected),
        SelectScratchBytes(1, call.kv_heads, call.max_context), tail_bytes}) {
    if (call.max_selected > 0 && row_bytes > 0) rows = std::min(rows, kCallBytes / row_bytes);
  }
  return static_cast<int>(std::max<int64_t>(1, rows));
}

}  // namespace

absl::Status DecodeRows::Reserve(const StepLimits& limits, cudaStream_t stream) {
  // The most that RowsOfCall lets rows take of what a row takes.
  const auto of_rows = [&](int64_t row_bytes) {
    return std::max(row_bytes, std::min(limits.rows * row_bytes, kCallBytes));
  };
  const int context = RoundContext(limits.context);
  absl::Status status = probes_.Take(kProbeBytes, stream).status();
  for (const KvShape& layer : limits.layers) {
    const int64_t workspace = DecodeWorkspaceBytes(0, layer.kv_heads, layer.head_dim, context) +
                              of_rows(SelectScratchBytes(1, layer.kv_heads, context));
    status.Update(
        selected_.Take(of_rows(SelectedBytes(1, layer.kv_heads, context)), stream).status());
    status.Update(workspace_.Take(workspace, stream).status());
    if (layer.summary_slots == 0) continue;
    const int64_t tail_bytes = TailBytes(1, limits.heads, layer.head_dim);
    status.Update(tails_.Take(of_rows(tail_bytes), stream).status());
    status.Update(longer_.Take(LongerBytes(limits.rows, limits.sequences, layer), stream).status());
  }
  return status;
}

absl::StatusOr<uint16_t*> DecodeRows::TakeLonger(const StepShape& shape, const KvShape& kv,
                                                 cudaStream_t stream) {
  const auto longer = longer_.Take(LongerBytes(shape.rows, shape.sequences, kv), stream);
  if (!longer.ok()) return longer.status();
  return reinterpret_cast<uint16_t*>(*longer);
}

absl::Status DecodeRows::RenewSummaries(const StepArrays& arrays, const KvView& kv,
                                        const LayerAttention& attention, cudaStream_t stream) {
  const StepShape& shape = arrays.shape();
  if (shape.renewals == 0 || !HasTail(kv, attention)) return absl::OkStatus();
  const auto longer = TakeLonger(shape, kv, stream);
  if (!longer.ok()) return longer.status();
  return CudaStatus(LaunchRenewSummaries({.kv_heads = kv.kv_heads,
                                          .head_dim = kv.head_dim,
                                          .block_tokens = kv.block_tokens,
                                          .label_width = kv.label_width,
                                          .kv = kv.data,
                                          .labels = kv.labels,
                                          .sinks = attention.sinks,
                                          .block_tables = arrays.BlockTables(kv.group),
                                          .max_blocks = shape.max_blocks,
                                          .summaries = kv.summaries,
                                          .longer = *longer,
                                          .tasks = shape.renewals,
                                          .task = arrays.tasks},
                                         stream),
                    "RenewSummaries");
}

DecodeAttention DecodeRows::CallFrom(int first) const {
  DecodeAttention call = all_;
  call.rows = std::min(rows_of_call_, all_.rows - first);
  call.query_rows += first;
  call.sequences += first;
  call.contexts += first;
  call.selections += first;
  call.estimates += first;
  return call;
}

absl::Status DecodeRows::Attend(const StepArrays& arrays, const Tensor& qkv, int heads,
                                const KvView& kv, const LayerAttention& attention,
                                const Tensor& out, cudaStream_t stream) {
  const StepShape& shape = arrays.shape();
  const int32_t max_selected = shape.MaxSelected(attention, kv.kv_heads);
  const bool has_tail = shape.estimates && max_selected > 0 && HasTail(kv, attention);
  all_ = {.kv_heads = kv.kv_heads,
          .group = heads / kv.kv_heads,
          .head_dim = kv.head_dim,
          .block_tokens = kv.block_tokens,
          .scale = ScoreScale(attention, kv.head_dim),
          .soft_cap = attention.soft_cap,
          .sliding_window = attention.sliding_window,
          .kv = kv.data,
          .labels = kv.labels,
          .label_width = kv.label_width,
          .basis = attention.basis,
          .sinks = attention.sinks,
          .window = attention.window,
          .min_context = attention.min_context,
          .budget_weights = attention.budget_weights,
          .tail_weights = has_tail ? attention.tail_weights : nullptr,
          .summaries = kv.summaries,
          .rows = shape.decode_rows,
          .query_rows = arrays.decode_rows,
          .sequences = arrays.decode_sequences,
          .contexts = arrays.contexts,
          .selections = arrays.selections,
          .estimates = arrays.estimates,
          .block_tables = arrays.BlockTables(kv.group),
          .max_blocks = shape.max_blocks,
          .max_context = shape.max_context,
          .max_selected = max_selected,
          .exact_scores = shape.scores > 0,
          .queries = static_cast<const float*>(qkv.data),
          .query_stride = qkv.stride,
          .out = out.data,
          .out_stride = out.stride,
          .out_type = OutType::kBf16};
  rows_of_call_ = RowsOfCall(all_);
  const int rows = std::min(rows_of_call_, all_.rows);
  const auto selected = selected_.Take(SelectedBytes(rows, kv.kv_heads, all_.max_selected), stream);
  if (!selected.ok()) return selected.status();
  const auto workspace =
      workspace_.Take(DecodeWorkspaceBytes(all_.max_selected > 0 ? rows : 0, kv.kv_heads,
                                           kv.head_dim, all_.max_context),
                      stream);
  if (!workspace.ok()) return workspace.status();
  if (has_tail) {
    const auto tails = tails_.Take(TailBytes(rows, heads, kv.head_dim), stream);
    if (!tails.ok()) return tails.status();
    all_.tails = reinterpret_cast<float*>(*tails);
    const auto longer = TakeLonger(shape, kv, stream);
    if (!longer.ok()) return longer.status();
    all_.longer = *longer;
  }
  all_.selected = reinterpret_cast<uint32_t*>(*selected);
  all_.workspace = *workspace;

  absl::Status status;
  for (int first = 0; first < all_.rows && status.ok(); first += rows_of_call_) {
    status = CudaStatus(LaunchDecodeAttention(CallFrom(first), stream), "DecodeAttention");
  }
  return status;
}

absl::Status DecodeRows::MeasureRecall(const StepArrays& arrays,
                                       std::span<const RecallProbe> probes, PinnedBuffer& staging,
                                       ProbedMass* probed, cudaStream_t stream) {
  std::fill_n(probed, probes.size(), ProbedMass());  // of rows that do not select
  absl::Status status;
  while (!probes.empty() && all_.max_selected > 0 && status.ok()) {
    const size_t count = std::min(probes.size(), kProbes);
    for (int first = 0; first < all_.rows && status.ok(); first += rows_of_call_) {
      status = MeasureRows(first, arrays, probes.first(count), staging, probed, stream);
    }
    probes = probes.subspan(count);
    probed += count;
  }
  return status;
}

// Of those probes that ask about rows of the call from `first` on.
absl::Status DecodeRows::MeasureRows(int first, const StepArrays& arrays,
                                     std::span<const RecallProbe> probes, PinnedBuffer& staging,
                                     ProbedMass* probed, cudaStream_t stream) {
  const DecodeAttention rows = CallFrom(first);
  const auto row_of = [&](const RecallProbe& probe) {
    return arrays.DecodeRowOf(probe.row) - first;
  };
  const auto is_asked = [&](const RecallProbe& probe) {
    return row_of(probe) >= 0 && row_of(probe) < rows.rows;
  };
  auto* const asked = reinterpret_cast<DecodeProbe*>(staging.data());
  size_t count = 0;
  for (const RecallProbe& probe : probes) {
    if (is_asked(probe)) asked[count++] = {row_of(probe), probe.kv_head};
  }
  if (count == 0) return absl::OkStatus();
  const auto memory = probes_.Take(kProbeBytes, stream);
  if (!memory.ok()) return memory.status();
  auto* const found = reinterpret_cast<ProbedMass*>(asked + kProbes);
  auto* const device_asked = reinterpret_cast<DecodeProbe*>(*memory);
  auto* const device_found = reinterpret_cast<ProbedMass*>(device_asked + kProbes);
  absl::Status status;
  const auto call = [&](cudaError_t error, const char* name) {
    status.Update(CudaStatus(error, name));
  };
  // Later rows have overwritten what these selected.
  if (rows.rows < all_.rows) call(LaunchSelect(rows, ScratchOf(rows).keys, stream), "Select");
  call(cudaMemcpyAsync(device_asked, asked, count * sizeof(DecodeProbe), cudaMemcpyHostToDevice,
                       stream),
       "cudaMemcpyAsync");
  call(LaunchMeasureRecall(rows, device_asked, static_cast<int>(count), device_found, stream),
       "MeasureRecall");
  call(cudaMemcpyAsync(found, device_found, count * sizeof(ProbedMass), cudaMemcpyDeviceToHost,
                       stream),
       "cudaMemcpyAsync");
  call(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
  size_t next = 0;
  for (size_t i = 0; i < probes.size() && status.ok(); ++i) {
    if (is_asked(probes[i])) probed[i] = found[next++];
  }
  return status;
}

}  // namespace winnow::cuda
