#pragma once

#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/attention/policy.h"
#include "engine/model/block.h"
#include "engine/model/config.h"
#include "engine/model/label_file.h"
#include "engine/model/model_spec.h"
#include "engine/model/weight_loader.h"
#include "kernels/backend.h"
#include "kernels/rope.h"

namespace winnow {

/// What blocks are built from, beside weights.
struct BlockOptions {
  const ModelConfig& config;
  std::span<const Rope> ropes;  ///< those of the config; their frequencies outlive the blocks
  SelectionOptions selection;
  const LabelFile* labels;  ///< null: there are none to select by
};

/// Builds each layer's modules, with the weights that the spec names. The one place that decides
/// which module a layer has. REQUIRES: `spec` is that of options.config. RESOURCE_EXHAUSTED when
/// memory is short; the errors of WeightLoader.
absl::StatusOr<std::vector<Block>> BuildBlocks(const ModelSpec& spec, const BlockOptions& options,
                                               const WeightLoader& loader, Backend& backend);

}  // namespace winnow
