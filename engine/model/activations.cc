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
  const int64_t experts = config.mixture.experts;
  const int64_t chosen = config.mixture.chosen;
  const int64_t pairs = rows * chosen;
  const int64_t gated_rows = experts > 0 ? pairs : rows;
  const int64_t ffn = experts > 0 ? config.mixture.ffn : config.ffn;
  static_assert(sizeof(ExpertGroup) == 3 * sizeof(float));
  Tensor ids, weights, pair_order, groups, expert_reads;  // of four bytes, like floats
  const Slot slots[] = {
      {&step.residual, rows, hidden, DataType::kF32},
      {&step.normed, rows, hidden, type},
      {&step.qkv, rows, qkv_columns, DataType::kF32},
      {&step.attended, rows, query_columns, type},
      {&step.gate_up, gated_rows, 2 * ffn, type},
      {&step.gated, gated_rows, ffn, type},
      {&step.branch, config.post_norms ? rows : 0, hidden, DataType::kF32},
      {&step.router, rows, experts, DataType::kF32},
      {&step.expert_out, pairs, hidden, DataType::kF32},
      {&ids, rows, chosen, DataType::kF32},
      {&weights, rows, chosen, DataType::kF32},
      {&pair_order, rows, chosen, DataType::kF32},
      {&groups, experts, 3, DataType::kF32},
      {&expert_reads, 1, 2, DataType::kF32},
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
  step.routes = {.rows = rows,
                 .experts = config.mixture.experts,
                 .chosen = config.mixture.chosen,
                 .ids = static_cast<int32_t*>(ids.data),
                 .weights = static_cast<float*>(weights.data),
                 .pairs = static_cast<int32_t*>(pair_order.data),
                 .groups = static_cast<ExpertGroup*>(groups.data),
                 .expert_reads = static_cast<int64_t*>(expert_reads.data)};
  memory.logits_.normed = FirstRows(step.normed, kLogitRows);
  return memory;
}

Activations ActivationMemory::OfStep(int rows) const {
  const int64_t pairs = int64_t{rows} * step_.routes.chosen;
  const int64_t gated_rows = step_.routes.experts > 0 ? pairs : rows;
  ExpertRoutes routes = step_.routes;
  routes.rows = rows;
  return {.residual = FirstRows(step_.residual, rows),
          .normed = FirstRows(step_.normed, rows),
          .qkv = FirstRows(step_.qkv, rows),
          .attended = FirstRows(step_.attended, rows),
          .gate_up = FirstRows(step_.gate_up, gated_rows),
          .gated = FirstRows(step_.gated, gated_rows),
          .branch = FirstRows(step_.branch, rows),
          .router = FirstRows(step_.router, rows),
          .routes = routes,
          .expert_out = FirstRows(step_.expert_out, pairs)};
}

LogitActivations ActivationMemory::OfLogits(int rows) const {
  return {.residual = FirstRows(logits_.residual, rows),
          .normed = FirstRows(logits_.normed, rows),
          .logits = FirstRows(logits_.logits, rows)};
}

}  // namespace winnow
