#include "kernels/cuda/step_arrays.h"

#include <algorithm>
#include <cstring>
#include <span>
#include <utility>

#include "kernels/cuda/status.h"

namespace winnow::cuda {
namespace {

constexpr int64_t kAlignment = 16;  // bytes, of each array
constexpr int64_t kArrays = 12;

int64_t Aligned(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// What a row of the task's sequence estimates by.
int32_t EstimateOf(const SummaryTask& task, int32_t position, const Selection& selection) {
  if (task.sequence < 0 || selection.kind != SelectionKind::kLabels) return kNoEstimate;
  const int32_t pieces = (SummarisedTokens(position) - task.tokens) / kSummaryPiece;
  return pieces == 0 ? task.slot : LongerEstimate(task.longer + pieces - 1);
}

}  // namespace

StepArrays::StepArrays() { cudaEventCreateWithFlags(&copied_, cudaEventDisableTiming); }

StepArrays::~StepArrays() {
  if (copied_ != nullptr) cudaEventDestroy(copied_);
}

// As the CPU's StepSummaries: a slot grows by what lies before its sequence's first row, and rows
// further on that choose by labels find longer summaries.
SummaryTask StepArrays::TaskOf(const StepBatch& batch, int sequence) const {
  const SummarySlot slot = batch.summaries.empty() ? SummarySlot() : batch.summaries[sequence];
  if (slot.slot < 0) return {};
  const int begin = batch.query_begin[sequence];
  const int32_t tokens = SummarisedTokens(batch.positions[begin]);
  SummaryTask task = {sequence, slot.slot, slot.tokens, tokens, tokens};
  for (int row = begin; row < batch.query_begin[sequence + 1] && !batch.selections.empty(); ++row) {
    if (batch.selections[row].kind != SelectionKind::kLabels) continue;
    task.last = SummarisedTokens(batch.positions[row]);
  }
  return task;
}

void StepArrays::Divide(const StepBatch& batch) {
  shape_ = {};
  shape_.rows = batch.rows();
  shape_.sequences = batch.sequences();
  row_sequences_.resize(batch.tokens.size());
  decode_rows_.clear();
  decode_sequences_.clear();
  contexts_.clear();
  selections_.clear();
  estimates_.clear();
  tasks_.clear();
  tiles_.clear();
  int32_t longer = 0;
  for (int s = 0; s < batch.sequences(); ++s) {
    const int begin = batch.query_begin[s];
    const int end = batch.query_begin[s + 1];
    std::fill(row_sequences_.begin() + begin, row_sequences_.begin() + end, s);
    SummaryTask task = TaskOf(batch, s);
    task.longer = longer;
    longer += (task.last - task.tokens) / kSummaryPiece;
    if (task.held < task.last) tasks_.push_back(task);
    const auto selection_of = [&](int row) {
      return batch.selections.empty() ? Selection{} : batch.selections[row];
    };
    const auto is_tiled = [&](int row) {
      return end - begin > 1 && selection_of(row).kind == SelectionKind::kAll;
    };
    for (int row = begin; row < end;) {
      if (is_tiled(row)) {
        int rows = 1;
        while (rows < kPrefillTileRows && row + rows < end && is_tiled(row + rows)) ++rows;
        tiles_.push_back({row, rows, batch.positions[row], s});
        row += rows;
        continue;
      }
      const Selection selection = selection_of(row);
      decode_rows_.push_back(row);
      decode_sequences_.push_back(s);
      contexts_.push_back(batch.positions[row] + 1);
      selections_.push_back(selection);
      estimates_.push_back(EstimateOf(task, batch.positions[row], selection));
      shape_.estimates = shape_.estimates || estimates_.back() != kNoEstimate;
      shape_.AddDecodeRow(selection, contexts_.back());
      ++row;
    }
  }
  std::ranges::sort(tiles_, [](const PrefillTile& a, const PrefillTile& b) {
    return a.first_position != b.first_position ? a.first_position > b.first_position
                                                : a.first_row < b.first_row;
  });
  shape_.tiles = static_cast<int>(tiles_.size());
  shape_.renewals = static_cast<int>(tasks_.size());
  shape_.Round(batch.max_blocks);
  tasks_.resize(static_cast<size_t>(shape_.renewals));  // the others are none
  const int64_t tables = std::ssize(batch.block_tables) / std::max(1, batch.max_blocks);
  tables_.assign(tables * shape_.max_blocks, 0);
  for (int64_t table = 0; table < tables; ++table) {
    std::copy_n(batch.block_tables.begin() + table * batch.max_blocks, batch.max_blocks,
                tables_.begin() + table * shape_.max_blocks);
  }
}

absl::Status StepArrays::Reserve(const StepLimits& limits) {
  const auto rows = static_cast<size_t>(limits.rows);
  int blocks = 0;
  int groups = 1;
  for (const KvShape& layer : limits.layers) {
    blocks = std::max(blocks, (limits.context + layer.block_tokens - 1) / layer.block_tokens);
    groups = std::max(groups, layer.group + 1);
  }
  const size_t table_entries = static_cast<size_t>(groups) * static_cast<size_t>(limits.sequences) *
                               static_cast<size_t>(RoundBlocks(blocks));
  // As Upload lays them out: eight arrays of a number for each row, and the others.
  const size_t row_bytes = 8 * sizeof(int32_t) + sizeof(Selection) + sizeof(PrefillTile);
  const auto tasks = static_cast<size_t>(RoundRenewals(limits.sequences));
  const absl::Status status =
      Grow(static_cast<int64_t>(rows * row_bytes + tasks * sizeof(SummaryTask) +
                                table_entries * sizeof(int32_t)) +
           kArrays * kAlignment);
  if (!status.ok()) return status;
  row_sequences_.reserve(rows);
  decode_rows_.reserve(rows);
  decode_sequences_.reserve(rows);
  contexts_.reserve(rows);
  selections_.reserve(rows);
  estimates_.reserve(rows);
  tasks_.reserve(tasks);
  tiles_.reserve(rows);
  tables_.reserve(table_entries);
  return status;
}

absl::Status StepArrays::Grow(int64_t bytes) {
  if (host_ != nullptr && host_->bytes() >= bytes) return absl::OkStatus();
  // What copies from the old memory, or reads it, has ended when these are gone.
  host_.reset();
  device_.reset();
  absl::StatusOr<std::unique_ptr<PinnedBuffer>> host = PinnedBuffer::Create(bytes);
  if (!host.ok()) return host.status();
  absl::StatusOr<std::unique_ptr<DeviceBuffer>> device = DeviceBuffer::Create(bytes);
  if (!device.ok()) return device.status();
  host_ = *std::move(host);
  device_ = *std::move(device);
  ++generation_;
  return absl::OkStatus();
}

absl::Status StepArrays::Upload(const StepBatch& batch, cudaStream_t stream) {
  Divide(batch);
  // Those whose length is no part of the shape come last.
  struct Array {
    const void* source;
    int64_t bytes;
    const void** device;
  };
  const auto array = [](const auto& values, auto** device) {
    return Array{values.data(), static_cast<int64_t>(std::span(values).size_bytes()),
                 reinterpret_cast<const void**>(device)};
  };
  const Array arrays[kArrays] = {
      array(batch.tokens, &tokens),
      array(batch.positions, &positions),
      array(row_sequences_, &sequences),
      array(decode_rows_, &decode_rows),
      array(decode_sequences_, &decode_sequences),
      array(contexts_, &contexts),
      array(selections_, &selections),
      array(estimates_, &estimates),
      array(tasks_, &tasks),
      array(tiles_, &tiles),
      array(tables_, &block_tables),
      array(batch.logit_rows, &logit_rows),
  };
  int64_t bytes = 0;
  for (const Array& a : arrays) bytes += Aligned(a.bytes);
  if (absl::Status status = Grow(bytes); !status.ok()) return status;
  absl::Status status = CudaStatus(cudaEventSynchronize(copied_), "cudaEventSynchronize");
  if (!status.ok()) return status;
  int64_t at = 0;
  for (const Array& a : arrays) {
    if (a.bytes > 0) std::memcpy(host_->data() + at, a.source, static_cast<size_t>(a.bytes));
    *a.device = device_->data() + at;
    at += Aligned(a.bytes);
  }
  status.Update(
      CudaStatus(cudaMemcpyAsync(device_->data(), host_->data(), static_cast<size_t>(bytes),
                                 cudaMemcpyHostToDevice, stream),
                 "cudaMemcpyAsync"));
  status.Update(CudaStatus(cudaEventRecord(copied_, stream), "cudaEventRecord"));
  return status;
}

int StepArrays::DecodeRowOf(int row) const {
  const auto found = std::ranges::lower_bound(decode_rows_, row);
  return found != decode_rows_.end() && *found == row
             ? static_cast<int>(found - decode_rows_.begin())
             : -1;
}

}  // namespace winnow::cuda
