#pragma once

#include <functional>
#include <span>

#include "engine/cache/kv_pools.h"
#include "engine/model/activations.h"
#include "kernels/backend.h"
#include "kernels/step_batch.h"

namespace winnow {

/// Called in a step for each layer, once keys and values are stored: `qkv` [rows, (heads +
/// 2 kv_heads) head_dim] after RoPE and `residual` [rows, hidden], the layer's input. Both are in
/// device memory and are overwritten later in the step.
using LayerObserver = std::function<void(int layer, const Tensor& qkv, const Tensor& residual)>;

/// What the modules share in one step.
struct StepContext {
  Backend& backend;
  const StepBatch& batch;
  KvPools& pools;
  Activations activations;        ///< of the batch's rows
  std::span<ProbedMass> probed;   ///< [batch.recall_probes], for layers to fill in
  const LayerObserver& observer;  ///< null: nobody looks
};

}  // namespace winnow
