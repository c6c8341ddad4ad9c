#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "engine/model/config.h"
#include "kernels/backend.h"
#include "kernels/tensor.h"

namespace winnow {

/// What the rows of a step become on their way through the blocks, in device memory. Every block
/// overwrites all but the residual stream. Of Backend::activation_type() unless said.
struct Activations {
  Tensor residual;  ///< fp32 [rows, hidden]: what blocks read and add to
  Tensor normed;    ///< [rows, hidden]: a module's input
  Tensor qkv;       ///< fp32 [rows, (heads + 2 kv_heads) head_dim]
  Tensor attended;  ///< [rows, heads head_dim]
  Tensor gate_up;   ///< [rows, 2 ffn]; of experts [rows chosen, 2 ffn], a row for each pair
  Tensor gated;     ///< [rows, ffn]; of experts [rows chosen, ffn]
  Tensor branch;    ///< fp32 [rows, hidden]: a module's output before its norm; none without such

  // Where layers have experts; else empty.
  Tensor router;        ///< fp32 [rows, experts]: logits
  ExpertRoutes routes;  ///< counts expert_reads since the memory was allocated
  Tensor expert_out;    ///< fp32 [rows chosen, hidden]
};

/// What rows become on their way to logits, some at a time.
struct LogitActivations {
  Tensor residual;  ///< fp32 [rows, hidden]
  Tensor normed;    ///< [rows, hidden]: memory of Activations::normed
  Tensor logits;    ///< fp32 [rows, vocab]
};

/// The memory of all activations, allocated once.
class ActivationMemory {
 public:
  /// Rows that become logits at once: bounds the memory of logits.
  static constexpr int kLogitRows = 64;

  /// None: views point nowhere.
  ActivationMemory() = default;

  /// For steps of at most `max_step_tokens` rows. The errors of Backend::Allocate.
  static absl::StatusOr<ActivationMemory> Allocate(const ModelConfig& config, int max_step_tokens,
                                                   Backend& backend);

  /// Views of the first rows. REQUIRES: rows <= max_step_tokens.
  Activations OfStep(int rows) const;

  /// REQUIRES: rows <= kLogitRows.
  LogitActivations OfLogits(int rows) const;

 private:
  std::unique_ptr<Buffer> buffer_;
  Activations step_;
  LogitActivations logits_;
};

}  // namespace winnow
