#include "server/commands/loaded_model.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/model/kv_layout.h"
#include "engine/model/model_spec.h"
#include "engine/model/weights_ahead.h"
#include "server/commands/pool_size.h"
#include "server/commands/progress.h"

namespace winnow {
namespace {

std::vector<std::string> NamesToLoad(const ModelConfig& config) {
  std::vector<std::string> names;
  for (TensorSpec& tensor : ModelSpec::Of(config).tensors) names.push_back(std::move(tensor.name));
  return names;
}

/// A checkpoint's weights, read ahead, which move a bar on a terminal as they are taken.
class WatchedWeights : public WeightSource {
 public:
  explicit WatchedWeights(const Checkpoint& checkpoint)
      : weights_(checkpoint.weights(), NamesToLoad(checkpoint.config())) {
    for (const WeightInfo& tensor : checkpoint.tensors()) total_ += tensor.bytes;
  }

  HostWeight Weight(std::string_view name) const override {
    HostWeight weight = weights_.Weight(name);
    taken_ += static_cast<int64_t>(weight.matrix.data.size());
    bar_.Update(static_cast<double>(taken_) / static_cast<double>(total_));
    return weight;
  }

  void ReleasePages() const override { weights_.ReleasePages(); }

 private:
  const WeightsAhead weights_;
  int64_t total_ = 0;
  mutable int64_t taken_ = 0;
  mutable ProgressBar bar_{"loading the weights"};
};

absl::Status TakePoolMemory(const LoadOptions& options, const Backend& backend, KvPools& pools) {
  if (options.kv_blocks == 0) {
    DeviceMemory memory = backend.OwnMemory().value_or(DeviceMemory{});
    memory.free -= pools.summary_bytes();  // which are taken beside the blocks
    const absl::StatusOr<int> blocks =
        BlocksThatFit(memory, options.memory_fraction, pools.block_bytes(), options.block_tokens);
    if (!blocks.ok()) return blocks.status();
    pools.SetBlocks(*blocks);
  }
  const absl::Status status = pools.TakeMemory();
  if (status.ok()) return status;
  return absl::Status(status.code(),
                      absl::StrCat("a KV pool of ", pools.blocks(), " blocks of ",
                                   pools.block_tokens(), " tokens: ", status.message()));
}

}  // namespace

absl::StatusOr<LoadedModel> LoadedModel::FromCheckpoint(const Checkpoint& checkpoint,
                                                        const LoadOptions& options) {
  const WatchedWeights weights(checkpoint);
  const ModelConfig& config = checkpoint.config();
  if (options.label_file.empty()) return FromWeights(weights, config, nullptr, options);
  const absl::StatusOr<LabelFile> labels = LabelFile::Read(options.label_file, checkpoint);
  if (!labels.ok()) return labels.status();
  return FromWeights(weights, config, &*labels, options);
}

absl::StatusOr<LoadedModel> LoadedModel::FromWeights(const WeightSource& weights,
                                                     const ModelConfig& config,
                                                     const LabelFile* labels,
                                                     const LoadOptions& options) {
  LoadedModel model;
  model.calibrated_context = labels != nullptr ? labels->calibrated_context : config.max_context;
  absl::StatusOr<std::unique_ptr<Backend>> backend = CreateBackend(options.backend);
  if (!backend.ok()) return backend.status();
  model.backend = *std::move(backend);
  // As many as sequences that a step can have, each of which has a block to itself.
  int summary_slots = 0;
  if (labels != nullptr && !labels->tail_weights.empty() && options.selection.tail) {
    summary_slots = options.kv_blocks > 0 ? std::min(options.max_sequences, options.kv_blocks)
                                          : options.max_sequences;
  }
  model.pools = KvPools::Plan(
      *model.backend, KvLayout(config, {.blocks = options.kv_blocks,
                                        .block_tokens = options.block_tokens,
                                        .label_width = labels != nullptr ? labels->width : 0,
                                        .summary_slots = summary_slots}));
  absl::StatusOr<std::unique_ptr<Transformer>> transformer =
      Transformer::Load(weights, config, *model.backend, *model.pools,
                        {.max_step_tokens = options.max_step_tokens,
                         .max_sequences = options.max_sequences,
                         .max_context = options.max_context,
                         .selection = options.selection,
                         .labels = labels});
  if (!transformer.ok()) return transformer.status();
  model.transformer = *std::move(transformer);
  // Last, for it may take what is left.
  if (absl::Status status = TakePoolMemory(options, *model.backend, *model.pools); !status.ok()) {
    return status;
  }
  return model;
}

}  // namespace winnow
