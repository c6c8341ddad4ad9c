#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <map>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "kernels/backend.h"
#include "kernels/cuda/step_arrays.h"

namespace winnow::cuda {

/// CUDA graphs of decode steps, one for each shape of step. The first step of a shape runs as it is
/// queued, which allocates what it needs; the second is captured; later ones are replayed. Shapes
/// that have not been used for longest are forgotten where there are too many, and a step for whose
/// graph there is no memory runs as it is queued.
class GraphRecordings : public Recordings {
 public:
  ~GraphRecordings() override;

  /// Runs a step on the stream: calls `queue`, or launches its graph. Graphs of another
  /// `generation`, which counts how often memory that they refer to has moved, are forgotten.
  absl::Status Run(const StepShape& shape, absl::FunctionRef<int()> generation, cudaStream_t stream,
                   absl::FunctionRef<void()> queue);

 private:
  struct Recording {
    cudaGraphExec_t graph = nullptr;  ///< null: the shape has run once, or
    bool lacks_memory = false;        ///< for a graph
    int64_t last_run = 0;
  };

  absl::Status Capture(cudaStream_t stream, absl::FunctionRef<void()> queue, Recording* recording);
  void Forget();
  void ForgetOldest();

  std::map<StepShape, Recording> recordings_;
  int64_t runs_ = 0;
  int generation_ = 0;
};

}  // namespace winnow::cuda
