#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "engine/attention/policy.h"
#include "engine/cache/kv_pools.h"
#include "engine/model/activations.h"
#include "engine/model/block.h"
#include "engine/model/config.h"
#include "engine/model/device_floats.h"
#include "engine/model/forward_pass.h"
#include "engine/model/label_file.h"
#include "engine/model/linear.h"
#include "engine/model/rms_norm.h"
#include "engine/model/step_context.h"
#include "engine/model/weight_source.h"
#include "kernels/backend.h"
#include "kernels/rope.h"

namespace winnow {

/// Size of the largest step, and how its rows may select.
struct TransformerOptions {
  int max_step_tokens = 0;  ///< rows of one step
  int max_sequences = 0;    ///< of one step; 0: as many as rows
  int max_context = 0;      ///< tokens of one sequence; 0: all that the pools hold
  SelectionOptions selection = {};
  /// How to select by labels, of the width that the pools keep; null: that is not possible. Not
  /// needed once the transformer is loaded.
  const LabelFile* labels = nullptr;
};

/// A decoder-only transformer on a backend: an embedding, blocks, an output. In what families
/// differ is up to the blocks (build_blocks.h).
class Transformer : public ForwardPass {
 public:
  /// Loads the weights, which are those of `config`, and takes all memory that steps will need.
  /// Keys and values will be kept in `pools`, which are of KvLayout(config) on the same backend.
  /// REQUIRES: the memory of weights that are not their own, `backend` and `pools` outlive it.
  /// RESOURCE_EXHAUSTED when memory is short, UNIMPLEMENTED when the backend can't compute the
  /// model's attention.
  static absl::StatusOr<std::unique_ptr<Transformer>> Load(const WeightSource& weights,
                                                           const ModelConfig& config,
                                                           Backend& backend, KvPools& pools,
                                                           const TransformerOptions& options);

  absl::Status Forward(const StepBatch& batch, std::span<float> logits,
                       std::span<ProbedMass> probed) override;
  absl::Status ForwardAndChoose(const StepBatch& batch, std::span<const TokenChoice> choices,
                                std::span<int32_t> tokens, std::span<TokenDescription> descriptions,
                                std::span<ProbedMass> probed) override;
  int vocab() const override { return config_.vocab; }
  AttentionShape attention_shape() const override;
  KvTraffic Traffic(const Selection& selection, int context) const override;
  KvTraffic PromptTraffic(int begin, int end) const override;

  /// Sets what observes the layers, for calibration; null, as at first, for nothing.
  void SetLayerObserver(LayerObserver observer) { observer_ = std::move(observer); }

  const ModelConfig& config() const { return config_; }
  const KvPools& pools() const { return pools_; }
  /// Bytes of weights that one step reads, whatever its batch: layers and output matrix.
  int64_t weight_bytes() const;
  /// Bytes of one expert of a layer, on average; 0 without experts.
  int64_t expert_bytes() const;
  /// How many experts' weights steps have read so far: of each layer those that any row had chosen.
  /// The errors of Backend::Synchronize.
  absl::StatusOr<int64_t> CountExpertReads();
  /// Number of weights that every token is multiplied with: those of the layers.
  int64_t layer_weights() const;

 private:
  Transformer(const ModelConfig& config, Backend& backend, KvPools& pools)
      : config_(config), backend_(backend), pools_(pools) {}

  absl::Status LoadModules(const WeightSource& weights, const TransformerOptions& options);
  absl::Status TakeStepMemory(const TransformerOptions& options);
  absl::Status LoadRopes();
  void Compute(const StepBatch& batch, std::span<ProbedMass> probed,
               absl::FunctionRef<void(int first, const Tensor& logits)> take);
  void RunBlocks(const StepContext& context);
  WeightTotals layer_totals() const;

  const ModelConfig config_;
  Backend& backend_;
  KvPools& pools_;
  LayerObserver observer_;

  std::vector<DeviceFloats> rope_frequencies_;  ///< of each of the ropes, [dim / 2]
  std::vector<Rope> ropes_;                     ///< as in the config
  std::unique_ptr<Matrix> embedding_;
  std::vector<Block> blocks_;
  RmsNorm output_norm_;
  Linear output_;  ///< [vocab, hidden]

  ActivationMemory activations_;
  std::unique_ptr<Recordings> recordings_;  ///< of RunBlocks
};

}  // namespace winnow
