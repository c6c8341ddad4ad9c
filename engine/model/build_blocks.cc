#include "engine/model/build_blocks.h"

#include <cstddef>
#include <memory>
#include <utility>

#include "engine/model/attention_mixer.h"
#include "engine/model/expert_feed_forward.h"
#include "engine/model/gated_feed_forward.h"
#include "engine/model/layer_selection.h"

namespace winnow {
namespace {

absl::StatusOr<LayerSelection> MakeSelection(const BlockOptions& options, int layer,
                                             Backend& backend) {
  const bool has_window = options.config.layer[static_cast<size_t>(layer)].sliding_window > 0;
  if (options.labels == nullptr || has_window) {
    return LayerSelection(options.selection, options.config, layer);
  }
  return LayerSelection::WithLabels(options.selection, options.config, layer, *options.labels,
                                    backend);
}

absl::StatusOr<std::unique_ptr<FeedForward>> LoadFeedForward(const BlockSpec& spec,
                                                             const ModelConfig& config,
                                                             const WeightLoader& loader) {
  if (!spec.experts) {
    return GatedFeedForward::Load(spec.feed_forward, config.activation, config.norm_epsilon,
                                  loader);
  }
  return ExpertFeedForward::Load(*spec.experts,
                                 {.mixture = config.mixture,
                                  .activation = config.activation,
                                  .norm_epsilon = config.norm_epsilon},
                                 loader);
}

absl::StatusOr<Block> BuildBlock(const BlockSpec& spec, int layer, const BlockOptions& options,
                                 const WeightLoader& loader, Backend& backend) {
  const ModelConfig& config = options.config;
  absl::StatusOr<LayerSelection> selection = MakeSelection(options, layer, backend);
  if (!selection.ok()) return selection.status();
  const auto rope = static_cast<size_t>(config.layer[static_cast<size_t>(layer)].rope);
  const AttentionSettings settings = {.layer = layer,
                                      .heads = config.heads,
                                      .kv_heads = config.kv_heads,
                                      .head_dim = config.head_dim,
                                      .norm_epsilon = config.norm_epsilon,
                                      .rope = options.ropes[rope]};
  absl::StatusOr<std::unique_ptr<Mixer>> mixer =
      AttentionMixer::Load(spec.attention, settings, *std::move(selection), loader);
  if (!mixer.ok()) return mixer.status();
  absl::StatusOr<std::unique_ptr<FeedForward>> feed_forward = LoadFeedForward(spec, config, loader);
  if (!feed_forward.ok()) return feed_forward.status();
  return Block{*std::move(mixer), *std::move(feed_forward)};
}

}  // namespace

absl::StatusOr<std::vector<Block>> BuildBlocks(const ModelSpec& spec, const BlockOptions& options,
                                               const WeightLoader& loader, Backend& backend) {
  std::vector<Block> blocks;
  for (const BlockSpec& block_spec : spec.blocks) {
    absl::StatusOr<Block> block =
        BuildBlock(block_spec, static_cast<int>(blocks.size()), options, loader, backend);
    if (!block.ok()) return block.status();
    blocks.push_back(*std::move(block));
  }
  return blocks;
}

}  // namespace winnow
