#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "engine/attention/policy.h"
#include "engine/cache/kv_pools.h"
#include "engine/model/checkpoint.h"
#include "engine/model/config.h"
#include "engine/model/label_file.h"
#include "engine/model/transformer.h"
#include "engine/model/weight_source.h"
#include "engine/request/engine_options.h"
#include "kernels/backend.h"
#include "kernels/devices/create_backend.h"

namespace winnow {

/// What a model is loaded for.
struct LoadOptions {
  BackendOptions backend;
  /// 0: as many as the device's memory holds beside all else; `memory_fraction` of it is used.
  /// REQUIRES then: it has memory of its own, and max_context is given.
  int kv_blocks = 0;
  double memory_fraction = 0.9;
  int block_tokens = EngineOptions().block_tokens;
  int max_step_tokens = 0;  ///< rows of one step
  int max_sequences = 0;    ///< of one step; 0: as many as rows
  int max_context = 0;      ///< tokens of one sequence; 0: all that the pool holds
  SelectionOptions selection = {};
  std::string label_file = {};  ///< empty: there are no labels to select by
};

/// A model that can compute: its weights on a backend, beside KV pools. One that is loaded from
/// files goes on reading them.
struct LoadedModel {
  std::unique_ptr<Backend> backend;
  std::unique_ptr<KvPools> pools;
  std::unique_ptr<Transformer> transformer;
  /// Longest context that the labels were calibrated for; that of the model if there are none.
  int calibrated_context = 0;

  /// The model of the checkpoint, with the label file of the options. Errors are those of
  /// LabelFile::Read, CreateBackend, Transformer::Load and KvPools::TakeMemory.
  static absl::StatusOr<LoadedModel> FromCheckpoint(const Checkpoint& checkpoint,
                                                    const LoadOptions& options);

  /// The same of any weights, with labels that may be null; options.label_file is not read.
  static absl::StatusOr<LoadedModel> FromWeights(const WeightSource& weights,
                                                 const ModelConfig& config, const LabelFile* labels,
                                                 const LoadOptions& options);
};

}  // namespace winnow
