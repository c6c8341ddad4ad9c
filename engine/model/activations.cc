#include "engine/model/activations.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "kernels/data_type.h"

namespace winnow {
namespace {

constexpr int64_t kAlignment = 256;  // bytes

/// A tensor that gets memory of its own.
struct Slot {
  Tensor* tensor;
  int64_t rows;
  int64_t columns;
  DataType type;

  int64_t bytes() const {
    return (rows * RowBytes(type, columns) + kAlignment - 1) / kAlignment * kAlignment;
  }
};

Tensor FirstRows(const Tensor& tensor, int64_t rows) {
  return {tensor.data, std::min(rows, tensor.rows), tensor.columns, tensor.stride, tensor.type};
}

}  // namespace

absl::StatusOr<ActivationMemory> ActivationMemory::Allocate(const ModelConfig& config,
                                                            int max_step_tokens, Backend& backend) {
  ActivationMemory memory;
  Activations& step = memory.step_;
  const int64_t rows = std::max(max_step_tokens, kLogitRows);  // normed serves logits, too
  const int64_t hidden = config.hidden;
  const int64_t query_columns = int64_t{config.heads} * config.head_dim;
  const int64_t qkv_columns = query_columns + int64_t{2} * config.kv_heads * config.head_dim;
  const DataType type = backend.activation_type();
  const Slot slots[] = {
      {&step.residual, rows, hidden, DataType::kF32},
      {&step.normed, rows, hidden, type},
      {&step.qkv, rows, qkv_columns, DataType::kF32},
      {&step.attended, rows, query_columns, type},
      {&step.gate_up, rows, int64_t{2} * config.ffn, type},
      {&step.gated, rows, config.ffn, type},
      {&step.branch, config.post_norms ? rows : 0, hidden, DataType::kF32},
      {&memory.logits_.residual, kLogitRows, hidden, DataType::kF32},
      {&memory.logits_.logits, kLogitRows, config.vocab, DataType::kF32},
  };
  int64_t bytes = 0;
  for (const Slot& slot : slots) bytes += slot.bytes();
  absl::StatusOr<std::unique_ptr<Buffer>> buffer = backend.Allocate(bytes);
  if (!buffer.ok()) return buffer.status();
  memory.buffer_ = *std::move(buffer);
  std::byte* next = memory.buffer_->data();
  for (const Slot& slot : slots) {
    *slot.tensor = {next, slot.rows, slot.columns, slot.columns, slot.type};
    next += slot.bytes();
  }
  memory.logits_.normed = FirstRows(step.normed, kLogitRows);
  return memory;
}

Activations ActivationMemory::OfStep(int rows) const {
  return {.residual = FirstRows(step_.residual, rows),
          .normed = FirstRows(step_.normed, rows),
          .qkv = FirstRows(step_.qkv, rows),
          .attended = FirstRows(step_.attended, rows),
          .gate_up = FirstRows(step_.gate_up, rows),
          .gated = FirstRows(step_.gated, rows),
          .branch = FirstRows(step_.branch, rows)};
}

LogitActivations ActivationMemory::OfLogits(int rows) const {
  return {.residual = FirstRows(logits_.residual, rows),
          .normed = FirstRows(logits_.normed, rows),
          .logits = FirstRows(logits_.logits, rows)};
}

}  // namespace winnow
