#pragma once

#include <cuda_runtime_api.h>

#include <functional>
#include <map>

#include "absl/status/status.h"
#include "kernels/backend.h"
#include "kernels/cuda/step_arrays.h"

namespace winnow::cuda {

/// CUDA graphs of decode steps, one for each shape of step. The first step of a shape runs as it is
/// queued, which allocates what it needs; the second is captured; later ones are replayed.
class GraphRecordings : public Recordings {
 public:
  ~GraphRecordings() override;

  /// Runs a step on the stream: calls `queue`, or launches its graph. Graphs of another
  /// `generation`, which counts how often memory that they refer to has moved, are forgotten.
  absl::Status Run(const StepShape& shape, const std::function<int()>& generation,
                   cudaStream_t stream, const std::function<void()>& queue);

 private:
  absl::Status Capture(cudaStream_t stream, const std::function<void()>& queue,
                       cudaGraphExec_t* graph);
  void Forget();

  std::map<StepShape, cudaGraphExec_t> graphs_;  ///< null: the shape has run once
  int generation_ = 0;
};

}  // namespace winnow::cuda
