#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/attention/policy.h"
#include "engine/cache/kv_pools.h"
#include "engine/model/config.h"
#include "engine/model/forward_pass.h"
#include "engine/model/label_file.h"
#include "engine/model/weight_source.h"
#include "kernels/backend.h"

namespace winnow {

/// Size of the largest step, and how its rows may select.
struct TransformerOptions {
  int max_step_tokens = 0;  ///< rows of one step
  SelectionOptions selection = {};
  /// How to select by labels, of the width that the pools keep; null: that is not possible. Not
  /// needed once the transformer is loaded.
  const LabelFile* labels = nullptr;
};

/// A decoder-only transformer on a backend: weights, activations and the forward pass. One pass
/// serves all model families; ModelConfig is the table of their differences.
class Transformer : public ForwardPass {
 public:
  /// Loads the weights, which are those of `config`. Keys and values will be kept in `pools`, which
  /// are of KvLayout(config) on the same backend. REQUIRES: `weights`, `backend` and `pools`
  /// outlive the transformer. RESOURCE_EXHAUSTED when memory is short, UNIMPLEMENTED when the
  /// backend can't compute the model's attention.
  static absl::StatusOr<std::unique_ptr<Transformer>> Load(const WeightSource& weights,
                                                           const ModelConfig& config,
                                                           Backend& backend, KvPools& pools,
                                                           const TransformerOptions& options);

  absl::Status Forward(const StepBatch& batch, std::span<float> logits,
                       std::span<float> recalls) override;
  absl::Status ForwardAndChoose(const StepBatch& batch, std::span<const TokenChoice> choices,
                                std::span<int32_t> tokens, std::span<float> logits,
                                std::span<float> recalls) override;
  absl::Status CopyBlock(int32_t from, int32_t to, int tokens) override;
  int vocab() const override { return config_.vocab; }
  AttentionShape attention_shape() const override { return {config_.layers, config_.kv_heads}; }
  KvTraffic Traffic(const Selection& selection, int context) const override;

  /// Called in every Forward for each layer, once keys and values are stored: `qkv` [rows, (heads +
  /// 2 kv_heads) head_dim] after RoPE and `residual` [rows, hidden], the layer's input. Both are in
  /// device memory and are overwritten later in the step.
  using LayerObserver = std::function<void(int layer, const Tensor& qkv, const Tensor& residual)>;
  /// Sets what observes the layers, for calibration; null, as at first, for nothing.
  void SetLayerObserver(LayerObserver observer) { layer_observer_ = std::move(observer); }

  const ModelConfig& config() const { return config_; }
  const KvPools& pools() const { return pools_; }
  /// Bytes of weights that one step reads, whatever its batch: layers and output matrix.
  int64_t weight_bytes() const;
  /// Number of weights that every token is multiplied with: those of the layers.
  int64_t layer_weights() const;

 private:
  struct Layer {
    std::unique_ptr<Buffer> attention_norm;  ///< [hidden]
    std::unique_ptr<Matrix> qkv;             ///< [(heads + 2 kv_heads) head_dim, hidden]
    std::unique_ptr<Buffer> qkv_bias;        ///< [(heads + 2 kv_heads) head_dim] or null
    std::unique_ptr<Matrix> attention_out;   ///< [hidden, heads head_dim]
    std::unique_ptr<Buffer> ffn_norm;        ///< [hidden]
    std::unique_ptr<Matrix> gate_up;         ///< [2 ffn, hidden]
    std::unique_ptr<Matrix> down;            ///< [hidden, ffn]

    std::array<const Matrix*, 4> matrices() const {
      return {qkv.get(), attention_out.get(), gate_up.get(), down.get()};
    }
  };

  Transformer(const ModelConfig& config, Backend& backend, KvPools& pools)
      : config_(config), backend_(backend), pools_(pools) {}

  void Compute(const StepBatch& batch, std::span<float> recalls,
               const std::function<void(int first, const Tensor& logits)>& take);
  void ComputeLayers(const StepBatch& batch, std::span<float> recalls);
  absl::Status LoadWeights(const WeightSource& weights);
  absl::Status AllocateActivations(int max_step_tokens);
  absl::Status LoadLabels(const LabelFile& file);
  void MakeSelectors(const SelectionOptions& options);

  ModelConfig config_;
  Backend& backend_;
  KvPools& pools_;
  LayerObserver layer_observer_;

  std::unique_ptr<Matrix> embedding_;
  std::vector<Layer> layers_;
  std::unique_ptr<Buffer> output_norm_;       ///< [hidden]
  std::unique_ptr<Matrix> output_;            ///< [vocab, hidden]
  std::unique_ptr<Buffer> rope_frequencies_;  ///< [rope_dim / 2]

  /// Of each layer: key and query [kv_heads, head_dim, width], offset [kv_heads, width]. Null if
  /// there are no labels.
  std::unique_ptr<Buffer> label_bases_;
  std::vector<float> budget_weights_;     ///< [layers, kv_heads]
  std::vector<LayerSelector> selectors_;  ///< [layers]

  std::unique_ptr<Recordings> recordings_;  ///< of ComputeLayers

  // Activations of one step, [max_step_tokens, ...] each; of the backend's type where a product
  // multiplies them, or its factors.
  std::unique_ptr<Buffer> activations_;
  Tensor residual_;     ///< fp32 [rows, hidden]
  Tensor normed_;       ///< [rows, hidden]
  Tensor qkv_;          ///< fp32 [rows, (heads + 2 kv_heads) head_dim]
  Tensor attended_;     ///< [rows, heads head_dim]
  Tensor gate_up_;      ///< [rows, 2 ffn]
  Tensor ffn_;          ///< [rows, ffn]
  Tensor logit_input_;  ///< fp32 [logit rows of one round, hidden]
  Tensor logits_;       ///< fp32 [logit rows of one round, vocab]
};

}  // namespace winnow
